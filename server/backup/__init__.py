"""Backups: one consistent copy of all tables in a repository, and the way back.

repository   what lies in a directory or a bucket: objects by their hash, manifests, the archive
cut          one instant of all shards: every primary's writers are held for a moment
take         pin the checkpoints -> cut -> copy what the repository lacks -> manifest, last
rebuild      a shard's state at an LSN or a moment: its files, then its log
restore      rebuilt rows into new tables, hashes compared, all made visible in one step
archive      the log, shipped all the time, so that a restore may stop at any moment
service      the jobs of a node
"""
