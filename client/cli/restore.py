"""`nearql restore`: bring tables of a backup back, beside what is there."""

from __future__ import annotations

import argparse
from typing import Any

from nearql.client.cli import options as cli
from nearql.client.cli.backup import Bar, add_common, by_job, desk, is_node, place_of, s3_of
from nearql.client.errors import UsageError

EXAMPLES = """\
  nearql restore ./copy                          everything, into a node that has none of it
  nearql restore ./copy --table docs --as old    one table, under another name
  nearql restore ./copy --backup 20261123t103000.123z-1f2e3d4c
  nearql restore ./copy --to-time 2026-11-23T10:30:00Z --table docs --as docs_then
  nearql restore ./copy --to-time latest         as much as the archived log has
  nearql restore ./copy --to-lsn 1200,1187 --table docs --as docs_then
  nearql restore ./copy --data-dir ./new-data    into a new data directory, for nearql serve
  nearql restore                                 from backup.repository of the node

A restore overwrites nothing: a name that is taken is refused, before anything is done.
--to-time and --to-lsn need the log's archive: backup.archive of the nodes.
"""


def main(argv: list[str]) -> int:
    """Run the command."""
    made = cli.parser("restore", "Bring tables of a backup back.", EXAMPLES)
    made.add_argument("repository", nargs="?", default="", help="a directory or s3://bucket/prefix")
    made.add_argument("--backup", default="latest", metavar="ID", help="see nearql backup list")
    made.add_argument("--table", action="append", metavar="T", help="only this one; repeat")
    made.add_argument(
        "--as", action="append", dest="names", metavar="NAME", help="the table's new name; repeat"
    )
    made.add_argument(
        "--to-time", default="", metavar="T", help="as of this time (ISO 8601), or latest"
    )
    made.add_argument(
        "--to-lsn", default="", metavar="L", help="as of this LSN of the table; one for each shard"
    )
    made.add_argument(
        "--cluster", default="", metavar="ID", help="whose log, where there are several"
    )
    made.add_argument(
        "--data-dir", default="", metavar="DIR", help="a data directory instead of a node"
    )
    made.add_argument("--no-wait", action="store_true", help="begin it, and print its job")
    add_common(made)
    arguments = made.parse_args(argv)
    return cli.run("restore", lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    tables, names = arguments.table, arguments.names
    if names is not None and len(names) != len(tables or ()):
        raise UsageError("--as gives each --table a new name: as many of one as of the other.")
    done = _restored(arguments)
    if arguments.no_wait and "job" in done:
        print(cli.json_text(done) if arguments.json else done["job"])
        return cli.DONE
    print(cli.json_text(done) if arguments.json else described(done))
    return cli.DONE


def _restored(arguments: argparse.Namespace) -> dict[str, Any]:
    directory = arguments.data_dir or ("" if is_node(arguments.url) else arguments.url)
    if not directory:
        return _by_node(arguments)
    if not arguments.repository:
        raise UsageError("Name the repository to restore a data directory from.")
    tables, names = arguments.table, arguments.names
    wish = {
        "backup": arguments.backup,
        "tables": None if tables is None else tuple(tables),
        "rename": dict(zip(tables or (), names or (), strict=False)),
        "to_time": arguments.to_time,
        "to_lsn": arguments.to_lsn,
        "cluster": arguments.cluster,
    }
    with Bar(arguments.json) as tell:
        found: dict[str, Any] = desk(
            "restore_directory", directory, arguments.repository, s3_of(arguments), wish, tell
        )
    return found


def _by_node(arguments: argparse.Namespace) -> dict[str, Any]:
    members: dict[str, Any] = {
        **place_of(arguments.repository, arguments, make=False),
        "backup": arguments.backup,
    }
    if arguments.table is not None:
        members["tables"] = arguments.table
    if arguments.names is not None:
        members["as"] = arguments.names
    for name in ("to_time", "to_lsn", "cluster"):
        if getattr(arguments, name):
            members[name] = getattr(arguments, name)
    return by_job(arguments, "/v1/restore", members)


def described(done: dict[str, Any]) -> str:
    """What a restore did, for a person."""
    source = f"From backup {done['backup']}" if done["backup"] else "From the archived log"
    lines = [f"{source}, as of {done['to']}:" if "to" in done else f"{source}:"]
    lines += [f"  table {one['name']}: {one['rows']} rows" for one in done["tables"]]
    lines += [f"  view {name}" for name in done["views"]]
    lines += [
        f"  not view {name}: it reads a table by its old name" for name in done.get("left_out", ())
    ]
    lines += [f"  user {name}; make keys with nearql token create" for name in done["users"]]
    return "\n".join(lines) if len(lines) > 1 else f"{lines[0]} nothing; it is empty."
