"""Many nodes, one database: metadata (Raft), replication, failover, moves."""
