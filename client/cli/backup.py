"""`nearql backup`: take a backup, and look after a repository of them."""

from __future__ import annotations

import argparse
import importlib
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from nearql.client import calls
from nearql.client.cli import options as cli
from nearql.client.errors import ServerError, UsageError, from_problem
from nearql.client.format import text_table
from nearql.client.sync import Connection

EXAMPLES = """\
  nearql backup ./copy                      everything, to a repository in this directory
  nearql backup ./copy                      again: only what is new is copied
  nearql backup                             where backup.repository of the node says
  nearql backup s3://backups/nearql         in a bucket; the node's configuration names it
  nearql backup ./copy --url ./nearql-data  of a data directory that no node has open
  nearql backup list ./copy
  nearql backup verify ./copy --all         read every byte against its hash
  nearql backup prune ./copy --keep 7       remove all but the seven newest
  nearql backup init /mnt/backups           a repository for nodes that see the same directory

The way back: nearql restore --help
"""
_ACTIONS = ("init", "list", "verify", "prune")
_LOOK_S = 0.2
_PAUSE = threading.Event()  # never set
Tell = Callable[[str, int, int], None]


def main(argv: list[str]) -> int:
    """Run the command."""
    made = cli.parser("backup", "Copy all tables, at one instant, while writes go on.", EXAMPLES)
    made.add_argument("words", nargs="*", metavar="[init|list|verify|prune] [REPOSITORY]")
    made.add_argument("--backup", default=None, metavar="ID", help="verify: this one, not the last")
    made.add_argument("--all", action="store_true", help="verify: every backup")
    made.add_argument("--keep", type=int, metavar="N", help="prune: how many of the newest stay")
    made.add_argument("--days", type=int, metavar="N", help="prune: those of N days stay, too")
    made.add_argument("--dry-run", action="store_true", help="prune: only say what would go")
    made.add_argument("--no-wait", action="store_true", help="begin it, and print its job")
    add_common(made)
    arguments = made.parse_args(argv)
    return cli.run("backup", lambda: _run(arguments))


def add_common(made: argparse.ArgumentParser) -> None:
    """Options of both commands."""
    made.add_argument("--s3-endpoint", default="", metavar="URL", help="of a server not AWS's")
    made.add_argument("--s3-region", default="", metavar="R", help="the bucket's region")
    made.add_argument(
        "--s3-key-file", default="", metavar="FILE", help="two lines: key id, secret (or AWS_*)"
    )
    made.add_argument("--json", action="store_true", help="the answer as JSON")


def _run(arguments: argparse.Namespace) -> int:
    words = list(arguments.words)
    action = words.pop(0) if words and words[0] in _ACTIONS else "take"
    if len(words) > 1 or (action != "take" and not words):
        raise UsageError(
            f"{'One repository' if words else f'{action} needs a repository'}: a directory, or "
            "s3://bucket/prefix."
        )
    place = words[0] if words else ""
    work: dict[str, Callable[[argparse.Namespace, str], int]] = {
        "init": _init, "list": _list, "verify": _verify, "prune": _prune, "take": _take,
    }  # fmt: skip
    return work[action](arguments, place)


# ---- A repository by itself -------------------------------------------------------------------


def desk(function: str, *arguments: Any, **options: Any) -> Any:
    """What this machine does by itself; see `nearql._repository`."""
    return importlib.import_module("nearql._repository").call(function, *arguments, **options)


def s3_of(arguments: argparse.Namespace) -> dict[str, str]:
    """How to reach a bucket from here."""
    return {
        "endpoint": arguments.s3_endpoint,
        "region": arguments.s3_region,
        "key_file": arguments.s3_key_file,
    }


def _init(arguments: argparse.Namespace, place: str) -> int:
    made = desk("make", place, s3_of(arguments))
    print(cli.json_text(made) if arguments.json else f"{made['location']} is a repository.")
    return cli.DONE


def _list(arguments: argparse.Namespace, place: str) -> int:
    found = desk("listed", place, s3_of(arguments))
    logs = desk("archives", place, s3_of(arguments))
    for one in logs:
        one["from"], one["to"] = (at and _at(at) for at in (one["from"], one["to"]))
    if arguments.json:
        backups = [{**one, "cut_at": _at(one["cut_at"])} for one in found]
        print(cli.json_text({"backups": backups, "logs": logs}))
        return cli.DONE
    rows = [
        (b["backup"], _at(b["cut_at"]), len(b["tables"]), size(b["bytes"]), size(b["new_bytes"]))
        for b in found
    ]
    print(text_table(["backup", "of", "tables", "bytes", "new in it"], rows))
    for one in logs:
        gaps = f", with {one['gaps']} gaps" if one["gaps"] else ""
        since = one["from"] or "its first record"
        reach = f"from {since} to {one['to'] or 'nobody knows when'}{gaps}"
        print(f"Log of {one['cluster_id']}: {size(one['bytes'])}, {reach}.")
    return cli.DONE


def _verify(arguments: argparse.Namespace, place: str) -> int:
    wanted = "all" if arguments.all else arguments.backup or "latest"
    with Bar(arguments.json) as tell:
        found = desk("checked", place, s3_of(arguments), wanted, tell)
    if arguments.json:
        print(cli.json_text({"backups": found}))
        return cli.DONE
    for one in found:
        print(f"{one['backup']} is whole: {one['objects']} objects, {size(one['bytes'])}.")
    return cli.DONE


def _prune(arguments: argparse.Namespace, place: str) -> int:
    if arguments.keep is None and arguments.days is None:
        raise UsageError("prune needs --keep, --days or both: how much stays.")
    if (arguments.keep or 0) < 0 or (arguments.days or 0) < 0:
        raise UsageError("--keep and --days can't be negative.")
    gone = desk(
        "pruned", place, s3_of(arguments),
        keep=arguments.keep or 1, days=arguments.days, dry_run=arguments.dry_run,
    )  # fmt: skip
    verb = "would go" if arguments.dry_run else "are gone"
    told = f"{len(gone['removed'])} backups and {size(gone['bytes'])} {verb}, "
    print(cli.json_text(gone) if arguments.json else told + f"{len(gone['kept'])} backups stay.")
    return cli.DONE


# ---- Taking one -------------------------------------------------------------------------------


def _take(arguments: argparse.Namespace, place: str) -> int:
    if not is_node(arguments.url):
        if not place:
            raise UsageError("Name a repository for the backup of a data directory.")
        with Bar(arguments.json) as tell:
            made = desk("backup_directory", arguments.url, place, s3_of(arguments), tell)
    else:
        asked = place_of(place, arguments, make=True)
        made = by_job(arguments, "/v1/backup", asked)
        if arguments.no_wait:
            print(cli.json_text(made) if arguments.json else made["job"])
            return cli.DONE
    if arguments.json:
        print(cli.json_text({**made, "cut_at": _at(made["cut_at"])}))
        return cli.DONE
    tables, total, new = len(made["tables"]), size(made["bytes"]), size(made["new_bytes"])
    print(f"{made['backup']}: {tables} tables, {total}, of which {new} are new.")
    return cli.DONE


def is_node(url: str) -> bool:
    """Whether this is the address of a node, and no data directory."""
    return url.lower().startswith(("http://", "https://"))


def place_of(place: str, arguments: argparse.Namespace, *, make: bool) -> dict[str, str]:
    """How a request names a repository. A directory is made here, and known by its id there."""
    if not place or "://" in place:
        return {"repository": place} if place else {}
    found = desk("make" if make else "found", place, s3_of(arguments))
    return {"repository": found["location"], "repository_id": found["repository"]}


def by_job(arguments: argparse.Namespace, route: str, members: Mapping[str, Any]) -> dict[str, Any]:
    """What a job of the node came to; the job itself where nobody waits."""
    with cli.open_connection(arguments) as db:
        job = db.run(calls.ask(db, "POST", route, dict(members)))
        if arguments.no_wait:
            return dict(job)
        with Bar(arguments.json) as tell:
            while job["state"] in ("waiting", "running"):
                _PAUSE.wait(_LOOK_S)
                job = _job(db, job["job"])
                tell(job["detail"], job["done"], job["total"])
    if job["state"] != "done":
        problem = {"code": job.get("code", "job_failed"), "detail": job["detail"], "status": 500}
        raise from_problem(problem)
    return dict(job["result"])


def _job(db: Connection, job_id: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = db.run(calls.get(db, f"/v1/jobs/{job_id}"))
    except ServerError as error:
        if error.code != "undefined_job":
            raise
        raise from_problem({
            "code": "job_lost", "status": 500,
            "detail": "The node that did it was stopped, and the job with it; nothing of it counts."
            " Begin it again.",
        }) from error  # fmt: skip
    return found


class Bar:
    """One line of progress on a terminal; nothing elsewhere."""

    def __init__(self, quiet: bool) -> None:
        self._shown = not quiet and sys.stderr.isatty()
        self._width = 0

    def __enter__(self) -> Tell:
        return self._tell

    def __exit__(self, *_: object) -> None:
        if self._width:
            print("\r" + " " * self._width + "\r", end="", file=sys.stderr, flush=True)

    def _tell(self, step: str, done: int, total: int) -> None:
        if self._shown:
            line = f"{step}: {size(done)} of {size(max(done, total))}" if total else step
            text = line.ljust(self._width)
            print("\r" + text, end="", file=sys.stderr, flush=True)
            self._width = len(text)


def size(nbytes: int) -> str:
    """Bytes for people: 512 B, 1.2 MiB."""
    value, units = float(nbytes), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:.0f} B" if units[0] == "B" else f"{value:.1f} {units[0]}"


def _at(milliseconds: int) -> str:
    at = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
