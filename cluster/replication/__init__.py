"""Replication of a shard's data: a primary orders writes, in-sync copies make them safe.

`core` decides and does no I/O; `link` carries its messages between nodes; `transfer` brings a copy
that is far behind up to date; `node` runs the core over this node's copies.
"""
