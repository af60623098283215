"""`nearql cluster status`: who is there, who leads, and where the data is."""

from __future__ import annotations

import argparse
from typing import Any

from nearql.client import calls
from nearql.client.cli import options as cli
from nearql.client.format import text_table

EXAMPLES = """  nearql cluster status
  nearql cluster status --json --url http://node-1.example:8470
"""


def main(argv: list[str]) -> int:
    """Run the command."""
    made = cli.parser("cluster", "Watch the nodes of a cluster.", EXAMPLES)
    made.add_argument("action", choices=("status",))
    made.add_argument("--json", action="store_true", help="the node's answer as JSON")
    arguments = made.parse_args(argv)
    return cli.run("cluster", lambda: _status(arguments))


def _status(arguments: argparse.Namespace) -> int:
    with cli.open_connection(arguments) as db:
        status = db.run(calls.get(db, "/v1/cluster"))
    print(cli.json_text(status) if arguments.json else described(status))
    return cli.DONE


def described(status: dict[str, Any]) -> str:
    """Nodes and shards as two tables."""
    nodes = [
        (n["name"], n["role"], n["url"], "yes" if n["alive"] else "NO", n["last_seen_ms"])
        for n in status["nodes"]
    ]
    shards = [
        (s["table"], s["shard"], s["epoch"], s["primary"], ", ".join(s["in_sync"]), c["node"])
        + (c["lsn"], c["lag_records"], c["lag_ms"])
        for s in status["shards"]
        for c in s["copies"]
    ]
    head = ["table", "shard", "epoch", "primary", "in sync", "copy on", "lsn", "lag", "lag ms"]
    return "\n\n".join(
        [
            f"leader: {status['leader'] or 'none'} (term {status['term']})",
            text_table(["node", "role", "url", "alive", "last seen ms ago"], nodes),
            text_table(head, shards),
        ]
    )
