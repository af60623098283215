"""Who is asking, and what they may do: keys, tokens, rights, the checked view of a node."""
