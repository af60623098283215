"""The replication protocol of one shard copy, without I/O: `Core.step(now_ms, event) -> effects`.

What can happen to a copy is in `events`, what it wants done in `effects`, what copies say to each
other in `messages`.
"""
