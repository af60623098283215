"""`nearql sql`: run a statement and print its answer; with none, a shell or what stdin holds."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from nearql.client.cli import options as cli
from nearql.client.errors import Error, UsageError
from nearql.client.files import load_npy
from nearql.client.format import text_table
from nearql.client.parameters import blob_text, interval_text, is_interval
from nearql.client.result import Result
from nearql.client.stream import BatchStream
from nearql.client.sync import Connection

FORMATS = ("table", "json", "csv", "arrow")
EXAMPLES = """  nearql sql "SELECT name FROM packages LIMIT 5"
  nearql sql "SELECT name, vec <-> :q AS d FROM docs ORDER BY d LIMIT 5" -p q=@query.npy
  nearql sql "SELECT * FROM docs WHERE id = \\$1" -p 1=7 --format json
  nearql sql --set target_recall=0.95 -f report.sql --format csv > report.csv
  nearql sql                                    a shell; \\? lists its commands
"""


def main(argv: list[str]) -> int:
    """Run the command."""
    arguments = make_parser().parse_args(argv)
    if arguments.json:
        arguments.format = "json"
    return cli.run("sql", lambda: _work(arguments))


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = cli.parser("sql", "Run SQL.", EXAMPLES)
    made.add_argument("statement", nargs="?", help="SQL text; several statements with ;")
    made.add_argument("-f", "--file", type=Path, help="read the SQL text from a file")
    made.add_argument(
        "-p", "--param", action="append", default=[], metavar="NAME=VALUE",
        help="a parameter: JSON or text; @file reads .npy, .json or text; -p 1=... is $1",
    )  # fmt: skip
    made.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the request"
    )
    made.add_argument("--format", choices=FORMATS, default="table", help="default: table")
    made.add_argument("--json", action="store_true", help="the same as --format json")
    return made


def _work(arguments: argparse.Namespace) -> int:
    parameters = read_parameters(arguments.param)
    settings = dict(_pair(each, "--set") for each in arguments.set)
    text = _text(arguments)
    with cli.open_connection(arguments) as db:
        if text is None:
            from nearql.client.cli.shell import run_shell

            return run_shell(db, arguments.format, settings)
        return run_once(db, text, parameters, settings, arguments.format)


def _text(arguments: argparse.Namespace) -> str | None:
    if arguments.file and arguments.statement:
        raise UsageError("Give the SQL text as an argument or with --file, not both.")
    if not arguments.file:
        statement: str | None = arguments.statement
        return statement
    try:
        text: str = arguments.file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{arguments.file} can't be read: {error}.") from error
    return text


def run_once(
    db: Connection, text: str, parameters: Any, settings: dict[str, Any], form: str
) -> int:
    """Run the text and print its last answer; 1 and a message where it fails."""
    try:
        answer(db, text, parameters, settings, form)
    except UsageError:
        raise
    except Error as error:
        cli.complain("sql", cli.describe(error, text))
        return cli.FAILED
    return cli.DONE


def answer(db: Connection, text: str, parameters: Any, settings: dict[str, Any], form: str) -> None:
    """Run the text and print its last answer on stdout in one of FORMATS, its notices on stderr."""
    if form == "arrow" and sys.stdout.isatty():
        raise UsageError("--format arrow writes binary data; send it to a file or a pipe.")
    if form in _STREAMED:  # large answers pass through, and are never held whole
        with db.stream(text, parameters, settings) as batches:
            _tell(batches.notices)
            _STREAMED[form](batches)
        return
    result = db.execute(text, parameters, settings)
    _tell(result.notices)
    _PRINTERS[form](result)


def _tell(notices: Iterable[str]) -> None:
    for notice in notices:
        print(f"notice: {notice}", file=sys.stderr)


def _print_table(result: Result) -> None:
    if result.columns:
        print(text_table(result.columns, result.fetchall()))
    else:
        print(repr(result))


def _print_json(result: Result) -> None:
    columns = [{"name": column.name, "type": column.type} for column in result.columns]
    body = {"columns": columns, "rows": result.fetchall(), "row_count": result.row_count}
    print(cli.json_text({**body, "stats": result.stats}))


def _print_csv(batches: BatchStream) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    if batches.columns:
        writer.writerow(batches.columns)
    writer.writerows([_csv_cell(value) for value in row] for row in _rows(batches))


def _rows(batches: BatchStream) -> Iterator[tuple[Any, ...]]:
    for batch in batches:
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _csv_cell(value: Any) -> Any:
    if isinstance(value, list | dict):
        return cli.json_text(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return blob_text(value)
    return interval_text(value) if is_interval(value) else value


def _print_arrow(batches: BatchStream) -> None:
    import pyarrow as pa

    with pa.ipc.new_stream(sys.stdout.buffer, batches.schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


_PRINTERS = {"table": _print_table, "json": _print_json}
_STREAMED = {"csv": _print_csv, "arrow": _print_arrow}


def read_parameters(pairs: list[str]) -> dict[str, Any] | list[Any] | None:
    """Parameters from `name=value`; names 1, 2, ... give a list.

    Raises:
        UsageError: a pair without `=`, a file that can't be read, a gap in the numbers.
    """
    values = {}
    for pair in pairs:
        name, text = _pair(pair, "--param")
        values[name.lstrip(":$")] = read_value(text)
    if not any(name.isdigit() for name in values):
        return values or None
    numbers = sorted(int(name) if name.isdigit() else 0 for name in values)
    if numbers != list(range(1, len(numbers) + 1)):
        raise UsageError(f"Parameters by number must be 1 to n; these are {', '.join(values)}.")
    return [values[str(number)] for number in numbers]


def _pair(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"{option} {text!r} must be NAME=VALUE.")
    return name, value


def read_value(text: str) -> Any:
    """A value as JSON if it is JSON, else as text; `@file` from a file."""
    if text.startswith("@"):
        return _read_file(Path(text[1:]))
    return _json_or_text(text)


def _json_or_text(text: str) -> Any:
    import orjson

    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _read_file(path: Path) -> Any:
    try:
        if path.suffix == ".npy":
            array = load_npy(path)
            return array[0] if array.ndim == 2 and len(array) == 1 else array
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UsageError(f"The parameter file {path} can't be read: {error}.") from error
    return _json_or_text(text) if path.suffix == ".json" else text.strip()
