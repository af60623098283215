"""The commands of `nearql` that talk to a node: each module has `main(argv) -> int`."""
