"""The cluster's side of the HTTP edge: which node a request belongs to, and how it gets there.

    classified -> on a follower: 307 to the leader, or (proxy) as on the leader
               -> the node of the primary of what is written: here, or forwarded whole over 8472
               -> evaluated once, logged, committed -> the answer is relayed

Safety never depends on who leads: a gateway that is stale forwards to a node that refuses.
"""
