"""`nearql import SOURCE [TABLE]`: a table of another system becomes one of ours."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from nearql.client.cli import options as cli
from nearql.client.cli.load import tell_failed
from nearql.client.errors import NotFound, UsageError
from nearql.client.importing.postgres import open_postgres
from nearql.client.importing.qdrant import open_qdrant
from nearql.client.importing.source import ImportSource
from nearql.client.loader import InsertReport
from nearql.client.sync import Connection

EXAMPLES = """  nearql import postgres://app@db.example/shop items
  nearql import postgres://app@db.example/shop sales.items --into items --without history
  nearql import qdrant://localhost:6333 articles
  PGPASSWORD, ~/.pgpass and QDRANT_API_KEY hold the secrets
"""
OPENERS = {
    "postgres": open_postgres,
    "postgresql": open_postgres,
    "qdrant": open_qdrant,
    "qdrants": open_qdrant,
}


def main(argv: list[str]) -> int:
    """Run the command."""
    arguments = make_parser().parse_args(argv)
    return cli.run("import", lambda: _work(arguments))


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = cli.parser("import", "Copy a table of pgvector or a collection of Qdrant.", EXAMPLES)
    made.add_argument("source", help="postgres://[user@]host[:port]/database or qdrant://host:port")
    made.add_argument("table", nargs="?", help="its table or collection")
    made.add_argument("--into", metavar="NAME", help="the new table's name (default: the same)")
    made.add_argument("--without", action="append", default=[], metavar="COLUMN", help="leave out")
    made.add_argument("--no-indexes", action="store_true", help="don't create the vector indexes")
    made.add_argument("--upsert", action="store_true", help="into a table that is there already")
    made.add_argument("--json", action="store_true", help="the summary as JSON")
    return made


def _work(arguments: argparse.Namespace) -> int:
    scheme = arguments.source.partition("://")[0]
    if scheme not in OPENERS:
        raise UsageError(f"{scheme!r} is no source; it must be {', '.join(OPENERS)}://...")
    source = OPENERS[scheme](arguments.source, arguments.table, arguments.without)
    try:
        with cli.open_connection(arguments) as db:
            return _copy(db, source, arguments)
    finally:
        source.close()


def _copy(db: Connection, source: ImportSource, arguments: argparse.Namespace) -> int:
    into = arguments.into or source.name
    for notice in source.notices:
        print(f"notice: {notice}", file=sys.stderr)
    if not arguments.upsert:
        _create(db, source, into)
    report = db.insert(
        into, source.tables(), "upsert" if arguments.upsert else "insert",
        progress=not arguments.json, errors="report", total=source.rows,
    )  # fmt: skip
    tell_failed([(f.row, f.detail) for f in report.failed], report.failed_count)
    indexes = [] if arguments.no_indexes or arguments.upsert else source.index_statements(into)
    for statement in indexes:
        _say_and_do(db, statement)
    _summarise(report, into, len(indexes), arguments.json)
    return cli.FAILED if report.failed_count else cli.DONE


def _create(db: Connection, source: ImportSource, into: str) -> None:
    try:
        db.table(into)
    except NotFound:
        return _say_and_do(db, source.create(into))
    raise UsageError(
        f"There is a table {into!r} already. Give another name with --into, or --upsert to put the "
        "rows into it."
    )


def _say_and_do(db: Connection, statement: str) -> None:
    print(statement, file=sys.stderr)
    for notice in db.sql(statement).notices:
        print(f"notice: {notice}", file=sys.stderr)


def _summarise(report: InsertReport, into: str, indexes: int, as_json: bool) -> None:
    counts: dict[str, Any] = {
        "table": into, "rows": report.rows, "inserted": report.inserted,
        "updated": report.updated, "failed": report.failed_count, "indexes": indexes,
        "seconds": round(report.seconds, 3),
    }  # fmt: skip
    if as_json:
        print(cli.json_text(counts))
        return
    parts = [f"{report.inserted:,} inserted", f"{report.updated:,} updated"]
    parts += [f"{report.failed_count:,} refused"] if report.failed_count else []
    rate = f"{report.seconds:.2f} s ({report.rows_per_s:,.0f} rows/s)"
    print(f"{report.rows:,} rows into {into}: {', '.join(parts)} in {rate}; {indexes} indexes")
