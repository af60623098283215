"""The connections between nodes that carry data: TLS 1.3, both ends proved, every frame bounded."""
