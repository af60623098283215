"""`nearql token create|list|rotate|revoke|whoami`: keys for people and programs."""

from __future__ import annotations

import argparse
import re
from typing import Any
from urllib.parse import quote

from nearql.client import calls
from nearql.client.cli import options as cli
from nearql.client.errors import UsageError
from nearql.client.format import text_table
from nearql.client.network import drive
from nearql.client.sync import Connection

EXAMPLES = """  nearql token create app --role reader
  nearql token create loader --role writer --table docs --expires 90d
  nearql token list
  nearql token rotate 1f2e3d4c5b6a --grace 1h
  nearql token revoke 1f2e3d4c5b6a
"""
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"(\d+)([smhd])")


def main(argv: list[str]) -> int:
    """Run the command."""
    arguments = _parser().parse_args(argv)
    return cli.run("token", lambda: _run(arguments))


def _parser() -> argparse.ArgumentParser:
    made = cli.parser("token", "Make, list and revoke access keys.", EXAMPLES)
    made.add_argument("action", choices=tuple(_ACTIONS))
    made.add_argument("name", nargs="?", help="create: whose key; rotate, revoke: the key's id")
    made.add_argument("--role", choices=("none", "reader", "writer", "admin"), help="of a new user")
    made.add_argument(
        "--table", action="append", metavar="T", help="the role holds for this table only; repeat"
    )
    made.add_argument("--expires", type=duration, metavar="TIME", help="such as 90d, 12h, 30m")
    made.add_argument("--grace", type=duration, metavar="TIME", help="rotate: the old key's rest")
    made.add_argument("--rate", type=int, metavar="N", help="requests per second")
    made.add_argument("--concurrency", type=int, metavar="N", help="requests at a time")
    made.add_argument("--json", action="store_true", help="the node's answer as JSON")
    return made


def duration(text: str) -> int:
    """Seconds of `90d`, `12h`, `30m`, `45s`."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time such as 90d, 12h, 30m, 45s")
    return int(match[1]) * _SECONDS[match[2]]


def _run(arguments: argparse.Namespace) -> int:
    takes_name = arguments.action in ("create", "rotate", "revoke")
    if takes_name != (arguments.name is not None):
        wanted = "a name after it" if takes_name else "nothing after it"
        raise UsageError(f"{arguments.action} takes {wanted}.")
    with cli.open_connection(arguments) as db:
        answer = _ACTIONS[arguments.action](db, arguments)
    print(cli.json_text(answer) if arguments.json else described(arguments.action, answer))
    return cli.DONE


def _create(db: Connection, arguments: argparse.Namespace) -> dict[str, Any]:
    members = {
        "user": arguments.name,
        "role": arguments.role,
        "tables": arguments.table,
        "expires_in_s": arguments.expires,
        "rate": arguments.rate,
        "concurrency": arguments.concurrency,
    }
    return _ask(db, "POST", "/v1/keys", {k: v for k, v in members.items() if v is not None})


def _rotate(db: Connection, arguments: argparse.Namespace) -> dict[str, Any]:
    members = {"grace_s": arguments.grace, "expires_in_s": arguments.expires}
    given = {name: value for name, value in members.items() if value is not None}
    return _ask(db, "POST", f"/v1/keys/{quote(arguments.name, safe='')}/rotate", given)


def _revoke(db: Connection, arguments: argparse.Namespace) -> dict[str, Any]:
    return _ask(db, "DELETE", f"/v1/keys/{quote(arguments.name, safe='')}")


def _list(db: Connection, arguments: argparse.Namespace) -> dict[str, Any]:
    return drive(calls.get(db, "/v1/keys"), db.transport)


def _whoami(db: Connection, arguments: argparse.Namespace) -> dict[str, Any]:
    return drive(calls.get(db, "/v1/whoami"), db.transport)


def _ask(
    db: Connection, method: str, route: str, members: dict[str, Any] | None = None
) -> dict[str, Any]:
    return drive(calls.ask(db, method, route, members), db.transport)


_ACTIONS = {
    "create": _create, "list": _list, "rotate": _rotate, "revoke": _revoke, "whoami": _whoami,
}  # fmt: skip


def described(action: str, answer: dict[str, Any]) -> str:
    """The answer for a person; a new key stands alone on the last line, to be copied."""
    if action == "revoke":
        return f"key {answer['revoked']} is void"
    if action == "whoami":
        return _person(answer)
    if action == "list":
        return _listed(answer)
    until = answer["expires_at"] or "it is revoked"
    head = f"key {answer['id']} of {answer['user']}, valid until {until}; it is shown only now:"
    if action == "rotate":
        head += f"\nthe key before stays valid until {answer['old_key_until']}"
    return f"{head}\n{answer['key']}"


def _person(answer: dict[str, Any]) -> str:
    everywhere = ", ".join(answer["all_tables"]) or "nothing"
    lines = [f"{answer['user']} (by {answer['via']}), on all tables: {everywhere}"]
    lines += [f"{table}: {', '.join(actions)}" for table, actions in answer["tables"].items()]
    return "\n".join(lines)


def _listed(answer: dict[str, Any]) -> str:
    users = {user["name"]: user for user in answer["users"]}
    rows = [
        (k["id"], k["user"], users[k["user"]]["role"], _rights(users[k["user"]]))
        + (k["created_at"], k["expires_at"] or "never")
        for k in answer["keys"]
    ]
    return text_table(["key", "user", "role", "tables", "made", "expires"], rows)


def _rights(user: dict[str, Any]) -> str:
    scope = "all" if user["tables"] is None else ", ".join(user["tables"])
    granted = [f"{g['table']} ({', '.join(g['actions'])})" for g in user["grants"]]
    own = [] if user["role"] == "none" else [scope]
    return "; ".join([*own, *granted]) or "none"
