"""One shard of a table on this node: its log, its state, its checkpoints.

records.py     statements as WAL payloads
dedup.py       outcomes of the last writes, by request id
state.py       what applying the log makes: segments, key index, dedup; publishes read views
meta.py        the identity of this copy on disk
checkpoint.py  state -> files and manifest -> state
shard.py       the writer: check, log, wait until durable, apply
"""
