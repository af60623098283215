"""The comparison with other systems: data sets, algorithms (one folder per system), a runner."""
