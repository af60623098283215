"""The replicated catalog: tables, schemas, shards with epochs and in-sync sets, nodes.

Read in this order: `commands` (what can be asked), `state` (what it does, pure), `codec` (bytes),
`journal` (durable bytes on one disk), `log` (the interface everybody uses), `local` (a node alone).
"""
