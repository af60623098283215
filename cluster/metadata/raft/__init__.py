"""Raft for the metadata: PySyncObj 0.3.17, with everything around its rules made ours.

Read in this order: `journal` (what is durable), `messages` and `guard` (what may reach the
library), `library` (the only file that imports it), `member` (one voter, without threads or
sockets), `streams` and `mesh` (the links between voters), `sidecar` (the process that a voter runs
in), `replicated` (what the data process sees of it all); for nodes that don't vote `guests` (the
voter's side) and `followed` (theirs).
"""
