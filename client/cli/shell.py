"""The interactive shell: statements end with `;`, commands start with a backslash.

`Shell` takes lines and prints answers, and knows no terminal; `run_shell` reads the lines with
history and completion from a terminal, or from stdin where that is a file or a pipe. There the
first error ends it with exit code 1, as in a script.
"""

from __future__ import annotations

import itertools
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from nearql.client.cli import options as cli
from nearql.client.cli.sql import answer
from nearql.client.cli.state import state_directory
from nearql.client.errors import Error, UsageError
from nearql.client.format import text_table
from nearql.client.statements import split
from nearql.client.sync import Connection

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession

HELP = """\
  \\d                  tables
  \\d TABLE            columns and indexes of a table
  \\timing [on|off]    show or hide how long statements take
  \\watch [S [TIMES]]  run the last statement every S seconds (2), until Ctrl-C
  \\format FORM        table, json or csv
  \\? , \\h             this help
  \\q                  leave (also Ctrl-D)
Statements end with ; and SET holds until the shell ends"""
WATCH_S = 2.0
SETTING = re.compile(r"set\s+(?:session\s+)?([\w.]+)\s*(?:=|\bto\b)\s*(.+)", re.I | re.S)
RESETTING = re.compile(r"reset\s+([\w.]+)", re.I)
KEYWORDS = """
SELECT FROM WHERE ORDER BY LIMIT OFFSET GROUP HAVING JOIN LEFT CROSS LATERAL ON USING WITH AS INSERT
INTO VALUES UPDATE SET DELETE CONFLICT NOTHING RETURNING CREATE TABLE INDEX DROP ALTER TRUNCATE
DESCRIBE SHOW TABLES SETTINGS EXPLAIN ANALYZE PRIMARY KEY NULL DEFAULT VECTOR HALFVEC BIGINT INTEGER
DOUBLE TEXT BOOLEAN TIMESTAMP DATE UUID JSON AND OR NOT IN LIKE ILIKE BETWEEN IS DISTINCT COUNT SUM
AVG MIN MAX l2_distance inner_product cosine_distance l1_distance vector_dims vector_norm
"""


class Leave(Exception):
    """The shell is asked to end."""


class Shell:
    """One session of statements and commands."""

    def __init__(self, db: Connection, form: str, settings: dict[str, Any]) -> None:
        self.db = db
        self.form = form
        self.settings = settings
        self.timing = False
        self.failed = False  # the last statement or command
        self._text = ""  # the unfinished statement
        self._last = ""  # the statement that \\watch repeats

    @property
    def prompt(self) -> str:
        """Shows whether a statement is unfinished."""
        return "     -> " if self._text.strip() else "nearql> "

    @property
    def unfinished(self) -> str:
        """The text of a statement that no `;` has ended."""
        return split(self._text)[1]

    def feed(self, line: str) -> None:
        """Take a line; run what it completes. Raises Leave for `\\q`."""
        if line.lstrip().startswith("\\") and not self.unfinished:
            self._text = ""
            return self._guarded(lambda: self._command(line.split()), "")
        self._text += line + "\n"
        statements, rest = split(self._text)
        self._text = rest + "\n" if rest else ""
        for statement in statements:
            self.run(statement)
            if self.failed:
                return

    def run(self, statement: str) -> None:
        """Run one statement and print its answer, or its error on stderr."""
        started = time.perf_counter()
        self._guarded(lambda: self._statement(statement), statement)
        if self.timing:
            print(f"Time: {(time.perf_counter() - started) * 1000:.1f} ms")

    def forget(self) -> None:
        """Drop the unfinished statement (Ctrl-C)."""
        self._text = ""

    def _guarded(self, work: Callable[[], None], text: str) -> None:
        self.failed = False
        try:
            work()
        except Error as error:
            self.failed = True
            print(f"error: {cli.describe(error, text)}", file=sys.stderr)

    def _statement(self, statement: str) -> None:
        if statement.lower() in ("quit", "exit"):
            raise Leave
        self._last = statement
        answer(self.db, statement, None, self.settings, self.form)
        self._remember_setting(statement)

    def _remember_setting(self, statement: str) -> None:
        """SET holds for a request, which is a statement here: send it with the next ones too."""
        if found := SETTING.fullmatch(statement):
            self.settings[found[1].lower()] = found[2].strip().strip("'")
        elif found := RESETTING.fullmatch(statement):
            self.settings.pop(found[1].lower(), None)

    def _command(self, words: list[str]) -> None:
        name, *rest = words
        if name == "\\q":
            raise Leave
        command = self._commands().get(name)
        if command is None:
            self.failed = True
            print(f"error: no command {name}; \\? lists them", file=sys.stderr)
        else:
            command(rest)

    def _commands(self) -> dict[str, Callable[[list[str]], None]]:
        return {
            "\\d": self._describe,
            "\\timing": self._switch_timing,
            "\\watch": self._watch,
            "\\format": self._choose_format,
            "\\?": lambda _: print(HELP),
            "\\h": lambda _: print(HELP),
        }

    def _switch_timing(self, words: list[str]) -> None:
        if words not in ([], ["on"], ["off"]):
            raise UsageError("\\timing takes on or off, or nothing to change it.")
        self.timing = words == ["on"] if words else not self.timing
        print(f"Timing is {'on' if self.timing else 'off'}.")

    def _choose_format(self, names: list[str]) -> None:
        if names not in (["table"], ["json"], ["csv"]):
            raise UsageError("\\format takes table, json or csv.")
        self.form = names[0]

    def _watch(self, words: list[str]) -> None:
        """Run the last statement again and again; Ctrl-C, an error or TIMES ends it."""
        if not self._last:
            raise UsageError("\\watch repeats the last statement, and there is none yet.")
        seconds, times = _watching(words)
        with _interrupts() as interrupted:
            for round_ in itertools.count(1):
                self._statement(self._last)
                if round_ == times or interrupted.wait(seconds):
                    return

    def _describe(self, names: list[str]) -> None:
        if names:
            print(describe_table(self.db.table(_unquoted(" ".join(names).rstrip("; ")))))
            return
        listed = [(each["name"], each["rows"], each["bytes"]) for each in self.db.tables()]
        print(text_table(["table", "rows", "bytes"], listed))


def _unquoted(name: str) -> str:
    """A table's name as it is, whether it is written in quotes or not."""
    if name.startswith('"') and name.endswith('"') and len(name) > 1:
        return name[1:-1].replace('""', '"')
    return name


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets, beside raising KeyboardInterrupt as ever.

    One that comes while Python runs a finaliser is lost there, and the loop would go on.
    """
    came = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        came.set()
        signal.default_int_handler(number, frame)

    if threading.current_thread() is not threading.main_thread():
        yield came  # only the main thread is told of signals
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield came
    finally:
        signal.signal(signal.SIGINT, before)


def _watching(words: list[str]) -> tuple[float, int | None]:
    """Seconds between, and how often, None for ever."""
    try:
        seconds = float(words[0]) if words else WATCH_S
        times = int(words[1]) if len(words) > 1 else None
    except ValueError as error:
        raise UsageError(f"\\watch takes seconds and a count: {error}.") from error
    if not 0 <= seconds <= 86_400 or (times is not None and times < 1) or len(words) > 2:
        raise UsageError("\\watch takes seconds (0 to 86400) and a count from 1 on.")
    return seconds, times


def describe_table(table: dict[str, Any]) -> str:
    """Columns and indexes as text."""
    columns = [
        (
            each["name"],
            each["type"],
            "" if each["nullable"] else "not null",
            "primary key" if each["primary_key"] else "",
            each["default"] or "",
        )
        for each in table["schema"]["columns"]
    ]
    text = text_table(["column", "type", "null", "key", "default"], columns)
    indexes = [f"index {i['name']} on {i['column']} ({i['kind']})" for i in table["indexes"]]
    return "\n".join([text, *indexes])


def run_shell(db: Connection, form: str, settings: dict[str, Any]) -> int:
    """Read and run until the end; 0, or 1 for an error outside a terminal."""
    shell = Shell(db, form, settings)
    try:
        if sys.stdin.isatty() and sys.stdout.isatty():
            return _interactive(shell)
        return _script(shell, sys.stdin)
    except Leave:
        return cli.DONE


def _script(shell: Shell, lines: Iterable[str]) -> int:
    for line in lines:
        shell.feed(line.rstrip("\n"))
        if shell.failed:
            return cli.FAILED
    if shell.unfinished:
        shell.run(shell.unfinished)
    return cli.FAILED if shell.failed else cli.DONE


def _interactive(shell: Shell) -> int:
    print(f"NearQL at {shell.db.transport.name}. Statements end with ; and \\? shows help.")
    session = _prompt_session(shell)
    while True:
        try:
            shell.feed(session.prompt(shell.prompt))
        except KeyboardInterrupt:
            shell.forget()
        except EOFError:
            return cli.DONE


def _prompt_session(shell: Shell) -> PromptSession[str]:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
    from prompt_toolkit.completion import FuzzyWordCompleter
    from prompt_toolkit.history import FileHistory

    return PromptSession(
        history=FileHistory(str(history_file())),
        auto_suggest=AutoSuggestFromHistory(),
        completer=FuzzyWordCompleter(lambda: list(words(shell.db))),
        complete_while_typing=False,
    )


def words(db: Connection) -> Iterator[str]:
    """What completion offers: keywords, tables and columns; only keywords without an answer."""
    yield from KEYWORDS.split()
    try:
        tables = db.tables()
    except Error:
        return
    names: dict[str, None] = {}  # once each: many tables have an id
    for table in tables:
        names[table["name"]] = None
        names.update((column["name"], None) for column in table["schema"]["columns"])
    yield from names


def history_file() -> Path:
    """The shell's history."""
    return state_directory() / "history"
