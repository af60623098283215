"""Helpers shared by tests: real server processes, data sets, waiting without sleeping blindly."""
