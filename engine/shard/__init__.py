"""One shard of a table on this node: its log, its state, its checkpoints.

records.py     statements as WAL payloads
dedup.py       outcomes of the last writes, by request id
state.py       what applying the log makes: segments, key index, dedup; publishes read views
meta.py        the identity of this copy on disk
checkpoint.py  state -> files and manifest -> state
opening.py     a copy's folder: made, found, checked
gate.py        what is committed, who may write
tail.py        what is logged and not applied
shard.py       the writer: check, log, wait until committed, apply
copy.py        one copy as replication drives it: the port; local_copy.py implements it
snapshot*.py   a checkpoint's files for another copy, and another copy's taken in
contents.py    hashes of what a copy holds
"""
