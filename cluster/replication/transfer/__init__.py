"""Snapshots from copy to copy, the full synchronisation; the partial one is records alone."""
