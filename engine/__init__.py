"""One node's data: segments, indexes, backends, storage. Knows nothing of SQL, network or cluster."""
