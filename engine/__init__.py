"""One node's data: segments, indexes, backends, storage. Knows no SQL, network or cluster."""
