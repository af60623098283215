"""`nearql cluster move`, `drain`, `rebalance`, `failover`, `jobs`, `cancel`: work on the copies.

Each starts a job and follows it: to its end, or until it has waited for a while for something that
only people can give it, such as another node. The job goes on whoever looks.
"""

from __future__ import annotations

import argparse
import sys
import threading
from typing import Any
from urllib.parse import quote

from nearql.client import calls
from nearql.client.cli import options as cli
from nearql.client.format import text_table
from nearql.client.sync import Connection

LOOK_S = 0.5
PATIENCE_S = 15.0  # with a job that waits

# How many names each takes, and which.
NAMES = {
    "move": ("TABLE", "FROM", "TO"),
    "drain": ("NODE",),
    "rebalance": (),
    "failover": ("TABLE", "[NODE]"),
    "jobs": ("[JOB]",),
    "cancel": ("JOB",),
}


def wrong_names(action: str, names: list[str]) -> str | None:
    """What is wrong with the names after an action, if anything."""
    takes = NAMES[action]
    least = sum(not name.startswith("[") for name in takes)
    if least <= len(names) <= len(takes):
        return None
    return f"{action} takes {' '.join(takes) or 'no names'}"


def operate(arguments: argparse.Namespace) -> int:
    """Run one of `NAMES`."""
    with cli.open_connection(arguments) as db:
        if arguments.action == "jobs":
            return _jobs(db, arguments)
        if arguments.action == "cancel":
            (job,) = arguments.names
            gone = db.run(calls.ask(db, "DELETE", f"/v1/jobs/{quote(job, safe='')}"))
            print(cli.json_text(gone) if arguments.json else f"Job {job} is cancelled.")
            return cli.DONE
        started = db.run(calls.ask(db, "POST", f"/v1/cluster/{arguments.action}", _body(arguments)))
        if "plan" in started:
            return _show_plan(started, arguments)
        return _follow(db, started, arguments)


def _body(arguments: argparse.Namespace) -> dict[str, Any]:
    names, action = arguments.names, arguments.action
    if action == "move":
        return dict(zip(("table", "from", "to"), names, strict=True))
    if action == "drain":
        return {"node": names[0], "cancel": arguments.undo}
    if action == "rebalance":
        return {"dry_run": arguments.dry_run}
    given = {"table": names[0], "unclean": arguments.unclean}
    return {**given, "to": names[1]} if len(names) > 1 else given


def _show_plan(plan: dict[str, Any], arguments: argparse.Namespace) -> int:
    if arguments.json:
        print(cli.json_text(plan))
    elif not plan["plan"]:
        print("Copies and primaries are spread as evenly as they can be.")
    else:
        rows = [(step["what"], step["table"], step["from"], step["to"]) for step in plan["plan"]]
        print(text_table(["what", "table", "from", "to"], rows))
    return cli.DONE


def _follow(db: Connection, job: dict[str, Any], arguments: argparse.Namespace) -> int:
    """Tell how the job goes; 1 if it failed, or waits for too long."""
    said, waited, pause = "", 0.0, threading.Event()
    while job["state"] in ("running", "waiting") and not arguments.no_wait:
        line = f"{job['kind']}: {job['done']} of {job['total']} {job['unit']} {job['detail']}"
        if line != said:
            print(line.rstrip(), file=sys.stderr)
            said = line
        waited = waited + LOOK_S if job["state"] == "waiting" else 0.0
        if waited > PATIENCE_S:
            break
        pause.wait(LOOK_S)
        job = db.run(calls.get(db, f"/v1/jobs/{job['job']}"))
    print(cli.json_text(job) if arguments.json else _told(job))
    ended_well = job["state"] == "done" or arguments.no_wait or arguments.undo
    return cli.DONE if ended_well else cli.FAILED


def _told(job: dict[str, Any]) -> str:
    detail = f": {job['detail']}" if job["detail"] else ""
    return f"{job['kind']} {job['job']} {job['state']}{detail}"


def _jobs(db: Connection, arguments: argparse.Namespace) -> int:
    if arguments.names:
        name = quote(arguments.names[0], safe="")
        found = db.run(calls.get(db, f"/v1/jobs/{name}"))
        listed = [found]
    else:
        found = db.run(calls.get(db, "/v1/jobs"))
        listed = found["jobs"]
    print(cli.json_text(found) if arguments.json else described(listed))
    return cli.DONE


def described(jobs: list[dict[str, Any]]) -> str:
    """Jobs as a table, and the parts of each that is under way."""
    head = ["job", "kind", "state", "done", "of", "since", "detail"]
    rows = [
        (j["job"], j["kind"], j["state"], j["done"], j["total"], j["started_at"], j["detail"])
        for j in jobs
    ]
    parts = [
        (s.get("what"), s.get("table"), s.get("from"), s.get("to"), s.get("state"))
        + (s.get("bytes"), s.get("bytes_total"))
        for j in jobs
        if j["state"] in ("running", "waiting")
        for s in j["steps"]
    ]
    shown = [text_table(head, rows)]
    if parts:
        names = ["what", "table", "from", "to", "state", "bytes", "of"]
        shown.append(text_table(names, parts))
    return "\n\n".join(shown)
