"""`nearql load TABLE FILE`: a file into a table, with progress, and on again after a break.

Rows go in batches of a fixed number of rows, each under the request id `<uuid of the load>:<n>`.
After every acknowledged batch the state (uuid, rows done) is saved in the user's state directory. A
load of the same unchanged file into the same table goes on from there; a batch that was stored, but
whose answer was lost, comes again under its old id and is not stored twice.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nearql.client import calls
from nearql.client.cli import options as cli
from nearql.client.cli.state import state_directory
from nearql.client.errors import UsageError
from nearql.client.files import OPENERS, DataFile, open_file
from nearql.client.loader import BATCH_BYTES, InsertReport, failed_count, regrouped
from nearql.client.progress import progress_bar
from nearql.client.schema import create_table
from nearql.client.sync import Connection

if TYPE_CHECKING:
    import pyarrow as pa

FAILED_SHOWN = 10
EXAMPLES = """  nearql load docs docs.parquet --create --key id
  nearql load docs new.jsonl --mode upsert
  nearql load glove vectors.fvecs --create          columns id and vec
"""


def main(argv: list[str]) -> int:
    """Run the command."""
    arguments = make_parser().parse_args(argv)
    return cli.run("load", lambda: _work(arguments))


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = cli.parser("load", "Load a file into a table.", EXAMPLES)
    made.add_argument("table")
    made.add_argument("file", type=Path)
    made.add_argument("--format", choices=sorted(OPENERS), help="default: by the file's suffix")
    made.add_argument("--dataset", help="which dataset of an HDF5 file (default train)")
    made.add_argument("--create", action="store_true", help="create the table as the data is")
    made.add_argument("--key", help="primary key for --create (default: a column named id)")
    made.add_argument("--no-key", action="store_true", help="create the table without a key")
    made.add_argument("--mode", choices=("insert", "upsert"), default="insert")
    made.add_argument("--batch-bytes", type=int, default=BATCH_BYTES, help="bytes of a request")
    made.add_argument("--restart", action="store_true", help="begin at row 0 after a break too")
    made.add_argument("--json", action="store_true", help="the summary as JSON")
    return made


@dataclass
class State:
    """How far a load is: the first `rows` rows are answered, in `batch` batches."""

    uuid: str
    batch_rows: int
    rows: int = 0
    batch: int = 0
    inserted: int = 0
    updated: int = 0
    failed: int = 0


def _work(arguments: argparse.Namespace) -> int:
    if arguments.batch_bytes < 1:
        raise UsageError(f"--batch-bytes is {arguments.batch_bytes}; it must be at least 1.")
    data = open_file(arguments.file, arguments.format, arguments.dataset)
    sample = next(data.tables(), None)
    with cli.open_connection(arguments) as db:
        if sample is None or not sample.num_rows:
            print(f"{arguments.file} has no rows; nothing was loaded.", file=sys.stderr)
            return cli.DONE
        if arguments.create:
            _create(db, arguments, sample, data.typed)
        columns = db.table(arguments.table)["schema"]["columns"]
        data = data.for_columns({each["name"]: each["type"] for each in columns})
        kept = state_file(db, arguments)
        state = _resume(db, kept, arguments, data) or State(
            str(uuid.uuid4()), _batch_rows(sample, arguments.batch_bytes)
        )
        report = _load(db, arguments, data, state, kept)
    kept.unlink(missing_ok=True)
    _summarise(report, state, arguments)
    return cli.FAILED if state.failed else cli.DONE


def _create(db: Connection, arguments: argparse.Namespace, sample: pa.Table, typed: bool) -> None:
    if arguments.key and arguments.no_key:
        raise UsageError("Give --key or --no-key, not both.")
    default = "id" if "id" in sample.column_names else None
    key = None if arguments.no_key else arguments.key or default
    statement = create_table(arguments.table, sample, key, typed=typed)
    print(statement, file=sys.stderr)
    db.sql(statement)


def _batch_rows(sample: pa.Table, batch_bytes: int) -> int:
    return int(max(1, batch_bytes * sample.num_rows // max(1, sample.nbytes)))


def state_file(db: Connection, arguments: argparse.Namespace) -> Path:
    """Where this load's state is: named by the table's identity and the file's."""
    found = arguments.file.stat()
    identity = [
        db.table(arguments.table)["uuid"], str(arguments.file.absolute()), found.st_size,
        found.st_mtime_ns, arguments.mode, arguments.format, arguments.dataset,
    ]  # fmt: skip
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
    folder = state_directory() / "loads"
    folder.mkdir(exist_ok=True)
    return folder / f"{digest}.json"


def _resume(
    db: Connection, kept: Path, arguments: argparse.Namespace, data: DataFile
) -> State | None:
    if arguments.restart or not kept.is_file():
        return None
    state = State(**json.loads(kept.read_text()))
    if state.inserted and not db.table(arguments.table)["rows"]:
        print(
            "The rows of an earlier load of this file are gone; beginning again.", file=sys.stderr
        )
        return None
    of_rows = f" of {data.rows:,}" if data.rows is not None else ""
    print(
        f"An earlier load of this file broke off; going on at row {state.rows:,}{of_rows}. "
        "--restart begins again.",
        file=sys.stderr,
    )
    return state


def _save(kept: Path, state: State) -> None:
    partial = kept.with_suffix(".new")
    partial.write_text(json.dumps(asdict(state)))
    os.replace(partial, kept)


def _load(
    db: Connection, arguments: argparse.Namespace, data: DataFile, state: State, kept: Path
) -> InsertReport:
    report = InsertReport(rows=state.rows)
    started = time.perf_counter()
    first = state.rows
    with progress_bar(
        f"into {arguments.table}", data.rows, shown=not arguments.json, done=state.rows
    ) as advance:
        for batch in regrouped(data.from_row(state.rows), state.batch_rows):
            _save(kept, state)
            body = _send(db, arguments, batch, f"{state.uuid}:{state.batch + 1}")
            _tell_failed(body, report.rows)
            report.add(batch.num_rows, body)
            _count(state, batch.num_rows, body)
            advance(batch.num_rows)
        _save(kept, state)
    report.seconds = time.perf_counter() - started
    report.rows -= first
    return report


def _send(
    db: Connection, arguments: argparse.Namespace, batch: pa.Table, request_id: str
) -> dict[str, Any]:
    sending = calls.send_batch(
        db, arguments.table, batch, mode=arguments.mode, request_id=request_id
    )
    body: dict[str, Any] = db.run(sending)
    return body


def _count(state: State, rows: int, body: dict[str, Any]) -> None:
    state.rows += rows
    state.batch += 1
    state.inserted += body["inserted"]
    state.updated += body["updated"]
    state.failed += failed_count(body)


def _tell_failed(body: dict[str, Any], first: int) -> None:
    rows = [(first + each["row"], each["detail"]) for each in body["failed"]]
    tell_failed(rows, failed_count(body), "of this batch")


def tell_failed(rows: list[tuple[int, str]], count: int, of: str = "") -> None:
    """The first refused rows on stderr, and how many more there are."""
    for row, detail in rows[:FAILED_SHOWN]:
        print(f"row {row}: {detail}", file=sys.stderr)
    if count > FAILED_SHOWN:
        print(f"... and {count - FAILED_SHOWN} more {of}".rstrip(), file=sys.stderr)


def _summarise(report: InsertReport, state: State, arguments: argparse.Namespace) -> None:
    counts = {
        "table": arguments.table, "rows": state.rows, "inserted": state.inserted,
        "updated": state.updated, "failed": state.failed, "seconds": round(report.seconds, 3),
    }  # fmt: skip
    if arguments.json:
        print(cli.json_text(counts))
        return
    parts = [f"{state.inserted:,} inserted", f"{state.updated:,} updated"]
    parts += [f"{state.failed:,} refused"] if state.failed else []
    rate = f"{report.rows_per_s:,.0f} rows/s"
    print(f"{state.rows:,} rows: {', '.join(parts)} in {report.seconds:.2f} s ({rate})")
