"""What the commands share: where the node is, secrets, exit codes, messages.

Exit codes: 0 done, 1 the request failed (why is on stderr), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import importlib
import os
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

from nearql.client.errors import Error, ServerError, UsageError
from nearql.client.format import iso_interval
from nearql.client.parameters import is_interval
from nearql.client.sync import Connection

DEFAULT_URL = "http://127.0.0.1:8470"
DONE, FAILED, WRONG_USAGE = 0, 1, 2
INTERRUPTED = 130  # as shells report SIGINT


def parser(command: str, description: str, examples: str) -> argparse.ArgumentParser:
    """A parser whose help teaches by examples, with the options that every command has."""
    made = argparse.ArgumentParser(
        prog=f"nearql {command}",
        description=description,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument(
        "--url",
        default=os.environ.get("NEARQL_URL", DEFAULT_URL),
        help=f"address of a node, or a data directory (NEARQL_URL; default {DEFAULT_URL})",
    )
    made.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="file with the access token (NEARQL_TOKEN_FILE; or NEARQL_TOKEN)",
    )
    made.add_argument(
        "--ca-file",
        default=os.environ.get("NEARQL_CA_FILE"),
        metavar="FILE",
        help="certificates (PEM) to trust instead of the system's (NEARQL_CA_FILE)",
    )
    made.add_argument("--timeout", type=float, default=60.0, metavar="S", help="seconds of silence")
    return made


def open_connection(options: argparse.Namespace) -> Connection:
    """Connect as the common options say."""
    # Through the package's root, which alone may choose between client and server.
    connect: Callable[..., Connection] = importlib.import_module("nearql").connect
    more = {"ca_file": options.ca_file} if options.ca_file else {}
    return connect(
        options.url, token=read_token(options.token_file), timeout=options.timeout, **more
    )


def read_token(file: Path | None) -> str | None:
    """The token from a file or from the environment; never from an argument, which others see."""
    named = file or os.environ.get("NEARQL_TOKEN_FILE")
    if named is None:
        return os.environ.get("NEARQL_TOKEN")
    try:
        return Path(named).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The token file {named} can't be read: {error}.") from error


def run(command: str, work: Callable[[], int]) -> int:
    """Do the work of a command; errors become a message on stderr and an exit code."""
    try:
        code = work()
        sys.stdout.flush()
        return code
    except UsageError as error:
        complain(command, error.detail)
        return WRONG_USAGE
    except Error as error:
        complain(command, describe(error))
        return FAILED
    except BrokenPipeError:  # `| head` has seen enough
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except KeyboardInterrupt:
        return INTERRUPTED


def complain(command: str, message: str) -> None:
    """Say on stderr what went wrong."""
    print(f"nearql {command}: {message}", file=sys.stderr)


def describe(error: Error, text: str | None = None) -> str:
    """The error for a person: the sentence, and below it the place in the SQL text."""
    lines = [error.detail]
    if text is not None and error.position is not None:
        lines += mark(text, error.position)
    if isinstance(error, ServerError) and error.status == 500 and error.request_id:
        lines.append(f"request id: {error.request_id}")
    return "\n".join(lines)


def mark(text: str, position: int) -> list[str]:
    """The line of the text that holds a position (from 1), and a caret below the position."""
    before = text[: position - 1]
    start = before.rfind("\n") + 1
    line = text[start:].split("\n")[0]
    if not 1 <= position <= len(text) + 1 or not line.strip():
        return []
    number = before.count("\n") + 1
    head = f"  line {number}: " if "\n" in text.strip() else "  "
    return [f"{head}{line}", " " * (len(head) + position - 1 - start) + "^"]


def json_text(value: Any) -> str:
    """Compact JSON for scripts, each value as in the server's; dates in ISO form, NaN as null."""
    import orjson

    return orjson.dumps(value, default=_json_value, option=orjson.OPT_SERIALIZE_NUMPY).decode()


def _json_value(value: Any) -> Any:
    """What JSON has no form of."""
    import orjson

    if isinstance(value, Decimal):
        return orjson.Fragment(format(value, "f")) if value.is_finite() else None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return iso_interval(value) if is_interval(value) else str(value)
