"""Tables of other systems, for `nearql import`."""
