"""`nearql cluster`: who is there, who leads, where the data is; joining, leaving, moving."""

from __future__ import annotations

import argparse
from typing import Any
from urllib.parse import quote

from nearql.client import calls
from nearql.client.cli import operate
from nearql.client.cli import options as cli
from nearql.client.format import text_table

EXAMPLES = """  nearql cluster status
  nearql cluster status --json --url http://node-1.example:8470
  nearql cluster join > token             for cluster.join_token_file of a new disk; valid an hour
  nearql cluster drain n4                 give its primaries and copies to others
  nearql cluster leave n4                 forget a node that holds no copies
  nearql cluster move docs n1 n4          the copies of table docs go from n1 to n4
  nearql cluster rebalance --dry-run      what would go where; without it, it goes
  nearql cluster failover docs n2         n2 orders the writes of docs
  nearql cluster jobs                     what is under way; `cancel JOB` ends one
"""


def main(argv: list[str]) -> int:
    """Run the command."""
    made = cli.parser("cluster", "Watch the nodes of a cluster, and move what they hold.", EXAMPLES)
    made.add_argument("action", choices=("status", "join", "leave", *operate.NAMES))
    made.add_argument("names", nargs="*", help="tables, nodes or jobs, as the action takes them")
    made.add_argument("--json", action="store_true", help="the node's answer as JSON")
    made.add_argument("--no-wait", action="store_true", help="begin the job, and print it")
    made.add_argument("--undo", action="store_true", help="of drain: let the node have copies")
    made.add_argument("--dry-run", action="store_true", help="of rebalance: print the plan")
    made.add_argument(
        "--unclean", action="store_true", help="of failover: rows that the copy lacks are LOST"
    )
    arguments = made.parse_args(argv)
    if (wrong := _wrong_use(arguments)) is not None:
        made.error(wrong)
    work = {"status": _status, "join": _join, "leave": _leave}.get(
        arguments.action, operate.operate
    )
    return cli.run("cluster", lambda: work(arguments))


def _wrong_use(arguments: argparse.Namespace) -> str | None:
    action = arguments.action
    for option, of in (("undo", "drain"), ("dry_run", "rebalance"), ("unclean", "failover")):
        if getattr(arguments, option) and action != of:
            return f"--{option.replace('_', '-')} belongs to {of}"
    if action in operate.NAMES:
        return operate.wrong_names(action, arguments.names)
    if len(arguments.names) != (action == "leave"):
        return "leave takes the name of a node" if action == "leave" else f"{action} takes no names"
    return None


def _join(arguments: argparse.Namespace) -> int:
    with cli.open_connection(arguments) as db:
        made = db.run(calls.ask(db, "POST", "/v1/cluster/tokens", {}))
    print(cli.json_text(made) if arguments.json else made["token"])
    return cli.DONE


def _leave(arguments: argparse.Namespace) -> int:
    with cli.open_connection(arguments) as db:
        gone = db.run(calls.ask(db, "DELETE", f"/v1/cluster/nodes/{quote(arguments.names[0])}"))
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
