"""What a shard leaves on disk: WAL, manifest, immutable checksummed files."""
