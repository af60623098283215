"""`nearql cluster`: who is there, who leads, where the data is; who joins and who leaves."""

from __future__ import annotations

import argparse
from typing import Any
from urllib.parse import quote

from nearql.client import calls
from nearql.client.cli import options as cli
from nearql.client.format import text_table

EXAMPLES = """  nearql cluster status
  nearql cluster status --json --url http://node-1.example:8470
  nearql cluster join > token             for cluster.join_token_file of a new disk; valid an hour
  nearql cluster leave n4                 forget a node that holds no copies
"""


def main(argv: list[str]) -> int:
    """Run the command."""
    made = cli.parser("cluster", "Watch the nodes of a cluster.", EXAMPLES)
    made.add_argument("action", choices=("status", "join", "leave"))
    made.add_argument("node", nargs="?", help="the node's name, for leave")
    made.add_argument("--json", action="store_true", help="the node's answer as JSON")
    arguments = made.parse_args(argv)
    if (arguments.action == "leave") != (arguments.node is not None):
        made.error("leave takes the name of a node, and nothing else does")
    work = {"status": _status, "join": _join, "leave": _leave}[arguments.action]
    return cli.run("cluster", lambda: work(arguments))


def _join(arguments: argparse.Namespace) -> int:
    with cli.open_connection(arguments) as db:
        made = db.run(calls.ask(db, "POST", "/v1/cluster/tokens", {}))
    print(cli.json_text(made) if arguments.json else made["token"])
    return cli.DONE


def _leave(arguments: argparse.Namespace) -> int:
    with cli.open_connection(arguments) as db:
        gone = db.run(calls.ask(db, "DELETE", f"/v1/cluster/nodes/{quote(arguments.node)}"))
    print(cli.json_text(gone) if arguments.json else f"{gone['removed']} is no member any more.")
    return cli.DONE


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
