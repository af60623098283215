"""`nearql sql` as a person or a script uses it: output, messages and exit codes, by subprocess."""

from __future__ import annotations

import datetime as dt
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from nearql.client.cli.options import mark
from nearql.client.cli.shell import Shell, words
from nearql.client.cli.sql import read_parameters
from nearql.client.errors import UsageError
from support.scripted_server import (
    Received,
    Reply,
    ScriptedServer,
    http,
    problem,
    rows,
)

TABLE = pa.table(
    {
        "id": [1, 2],
        "title": ["one", None],
        "d": pa.array([0.5, float("nan")], pa.float32()),
        "day": [dt.date(2026, 1, 2), None],
        "vec": pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32(), 2)),
        "ok": [True, False],
    }
)
ODD = pa.table(
    {
        "sum": pa.array([Decimal(3)], pa.decimal128(38, 0)),
        "price": [Decimal("12.30")],
        "blob": [b"\x00\xff"],
        "span": pa.array([pa.MonthDayNano([1, -2, -3_500_000_000])]),
    }
)


def column(
    name: str, kind: str, default: str | None = None, *, key: bool = False
) -> dict[str, Any]:
    """A column as /v1/tables describes it."""
    described = {"name": name, "type": kind, "default": default}
    return {**described, "nullable": not key, "primary_key": key}


DESCRIBED = {
    "name": "docs",
    "uuid": "u1",
    "rows": 2,
    "bytes": 100,
    "indexes": [{"name": "i1", "column": "vec", "kind": "hnsw"}],
    "schema": {"columns": [column("id", "BIGINT", key=True), column("vec", "VECTOR(2)", "1")]},
}


def script(request: Received) -> Reply:
    """A node with one table."""
    if request.target == "/v1/tables":
        return http(200, json_bytes({"tables": [DESCRIBED]}))
    if request.target == "/v1/tables/docs":
        return http(200, json_bytes(DESCRIBED))
    if request.target.startswith("/v1/tables/"):
        return problem(404, "undefined_table", detail="There is no table 'x'.")
    text = request.json["sql"]
    if "wrong" in text:
        position = text.index("wrong") + 1
        return problem(400, "syntax_error", detail="No such word.", position=position)
    if text.startswith("INSERT"):
        return rows(pa.table({}), row_count=2, stats={"write": {"committed": True}})
    if text.startswith("CREATE"):
        return rows(pa.table({}), row_count=0, stats={}, notices=["Accepted, does nothing."])
    return rows(ODD if "odd" in text else TABLE, stats={"elapsed_ms": 1.5})


def json_bytes(value: Any) -> bytes:
    import orjson

    return orjson.dumps(value)


@pytest.fixture(scope="module")
def node() -> Iterator[ScriptedServer]:
    with ScriptedServer(script) as started:
        yield started


def nearql(
    node: ScriptedServer, *arguments: str, stdin: str | None = None, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """Run the command against the node."""
    return subprocess.run(
        [sys.executable, "-m", "nearql", *arguments],
        input=(stdin or "").encode(),
        capture_output=True,
        env={**os.environ, "NEARQL_URL": node.url, **environment},
        timeout=60,
        check=False,
    )


GOLDEN = {
    "table": """\
id | title | d   | day        | vec    | ok
---+-------+-----+------------+--------+------
 1 | one   | 0.5 | 2026-01-02 | [1, 2] | true
 2 | NULL  | nan | NULL       | [3, 4] | false
(2 rows)
""",
    "csv": """\
id,title,d,day,vec,ok
1,one,0.5,2026-01-02,"[1.0,2.0]",true
2,,nan,,"[3.0,4.0]",false
""",
    "json": """\
{"columns":[{"name":"id","type":"int64"},{"name":"title","type":"string"},\
{"name":"d","type":"float"},{"name":"day","type":"date32[day]"},\
{"name":"vec","type":"fixed_size_list<item: float>[2]"},{"name":"ok","type":"bool"}],\
"rows":[[1,"one",0.5,"2026-01-02",[1.0,2.0],true],[2,null,null,null,[3.0,4.0],false]],\
"row_count":2,"stats":{"elapsed_ms":1.5}}
""",
}


@pytest.mark.parametrize("form", list(GOLDEN))
def test_output(node: ScriptedServer, form: str) -> None:
    done = nearql(node, "sql", "SELECT 1", "--format", form)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == GOLDEN[form]


def test_json_is_short_for_format_json(node: ScriptedServer) -> None:
    assert nearql(node, "sql", "SELECT 1", "--json").stdout.decode() == GOLDEN["json"]


def test_json_values_are_those_of_the_server(node: ScriptedServer) -> None:
    """So that a script reads the same whether it asks the command or the route."""
    shown = nearql(node, "sql", "SELECT odd", "--json").stdout.decode()
    assert '"rows":[[3,12.30,"AP8=","P1M-2DT-3.5S"]]' in shown
    shown = nearql(node, "sql", "SELECT odd", "--format", "csv").stdout.decode()
    assert shown.splitlines()[1] == r"3,12.30,\x00\xff,1 month -2 days -00:00:03.5"


def test_arrow_output_is_a_stream(node: ScriptedServer) -> None:
    done = nearql(node, "sql", "SELECT 1", "--format", "arrow")
    assert pa.ipc.open_stream(done.stdout).read_all().num_rows == 2


def test_large_answers_pass_through(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Rows are printed while they arrive: what came before the break is there."""
    from nearql.client.cli import sql

    sink = pa.BufferOutputStream()
    table = pa.table({"n": range(5_000)}).replace_schema_metadata({"nearql": '{"stats": {}}'})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1_000)
    whole = http(200, bytes(sink.getvalue()), "application/vnd.apache.arrow.stream").raw
    with ScriptedServer(lambda _: Reply(whole[:-500], close=True)) as broken:
        code = sql.main(["SELECT n FROM t", "--format", "csv", "--url", broken.url])
    said = capfdbinary.readouterr()
    assert code == 1
    assert said.out.splitlines() == [b"n", *(b"%d" % n for n in range(4_000))]
    assert b"broke off" in said.err


def test_writes_and_notices(node: ScriptedServer) -> None:
    done = nearql(node, "sql", "INSERT INTO t VALUES (1)")
    assert (done.returncode, done.stdout) == (0, b"OK, 2 rows affected\n")
    done = nearql(node, "sql", "CREATE TABLE t (id BIGINT)")
    assert (done.stdout, done.stderr) == (b"OK\n", b"notice: Accepted, does nothing.\n")


def test_an_error_shows_the_place_and_exits_with_1(node: ScriptedServer) -> None:
    done = nearql(node, "sql", "SELECT 1,\n  wrong")
    assert done.returncode == 1
    assert done.stdout == b""
    assert done.stderr.decode() == ("nearql sql: No such word.\n  line 2:   wrong\n            ^\n")


@pytest.mark.parametrize(
    ("text", "position", "marked"),
    [
        ("SELECT x", 8, ["  SELECT x", "         ^"]),
        ("a\nbc\nd", 4, ["  line 2: bc", "           ^"]),
        ("SELECT", 7, ["  SELECT", "        ^"]),
        ("SELECT", 99, []),
        ("", 1, []),
    ],
)
def test_mark(text: str, position: int, marked: list[str]) -> None:
    assert mark(text, position) == marked


def test_an_unreachable_node_exits_with_1(node: ScriptedServer) -> None:
    done = nearql(node, "sql", "SELECT 1", "--url", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert b"No NearQL node answers at http://127.0.0.1:9" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    "wrong",
    [
        ["--nonsense"],
        ["SELECT 1", "-p", "novalue"],
        ["SELECT 1", "-p", "q=@missing.npy"],
        ["SELECT 1", "-p", "2=x"],
        ["SELECT 1", "--format", "xml"],
        ["SELECT 1", "-f", "x.sql"],
        ["-f", "missing.sql"],
        ["SELECT 1", "--url", "nonsense://x"],
        ["SELECT 1", "--token-file", "missing"],
    ],
)
def test_wrong_usage_exits_with_2(node: ScriptedServer, wrong: list[str]) -> None:
    done = nearql(node, "sql", *wrong)
    assert done.returncode == 2, done.stderr
    assert done.stderr
    assert b"Traceback" not in done.stderr


def test_the_token_comes_from_a_file_or_the_environment(
    node: ScriptedServer, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("from-file\n")
    nearql(node, "sql", "SELECT 1", "--token-file", str(tmp_path / "token"))
    assert node.received[-1].headers["authorization"] == "Bearer from-file"
    nearql(node, "sql", "SELECT 1", NEARQL_TOKEN="from-environment")
    assert node.received[-1].headers["authorization"] == "Bearer from-environment"


def test_parameters_and_settings_are_sent(node: ScriptedServer, tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.array([[1.0, 2.0]], "f4"))
    (tmp_path / "ids.json").write_text("[1, 2]")
    (tmp_path / "q.sql").write_text("SELECT :q, :ids, :s, :n")
    pairs = [f"q=@{tmp_path}/v.npy", f"ids=@{tmp_path}/ids.json", "s=text=x", "n=5"]
    options = [piece for pair in pairs for piece in ("-p", pair)]
    nearql(node, "sql", "-f", str(tmp_path / "q.sql"), *options, "--set", "target_recall=0.9")
    assert node.received[-1].json == {
        "sql": "SELECT :q, :ids, :s, :n",
        "params": {"q": "AACAPwAAAEA=", "ids": [1, 2], "s": "text=x", "n": 5},
        "settings": {"target_recall": "0.9"},
    }


def test_parameters_by_number() -> None:
    assert read_parameters(["2=b", "1=[1,2]"]) == [[1, 2], "b"]
    assert read_parameters([":a=1", "b=null"]) == {"a": 1, "b": None}
    assert read_parameters([]) is None
    with pytest.raises(UsageError, match="1 to n"):
        read_parameters(["1=a", "x=b"])


# ---- the shell ------------------------------------------------------------------------------


def test_statements_from_stdin(node: ScriptedServer) -> None:
    done = nearql(node, "sql", "--format", "csv", stdin="INSERT INTO t\nVALUES (';');\nSELECT 1")
    assert done.returncode == 0
    assert done.stdout.decode() == GOLDEN["csv"]
    sent = [request.json["sql"] for request in node.received[-2:]]
    assert sent == ["INSERT INTO t\nVALUES (';')", "SELECT 1"]


def test_stdin_stops_at_the_first_error(node: ScriptedServer) -> None:
    before = len(node.received)
    done = nearql(node, "sql", stdin="SELECT 1; wrong; SELECT 2;\nSELECT 3;")
    assert done.returncode == 1
    assert b"error: No such word." in done.stderr
    assert len(node.received) == before + 2


class Prompt:
    """A Shell on the scripted node, and what it printed."""

    def __init__(self, node: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
        import nearql

        self.db = nearql.connect(node.url)
        self.shell = Shell(self.db, "table", {})
        self.capsys = capsys

    def say(self, *lines: str) -> tuple[str, str]:
        for line in lines:
            self.shell.feed(line)
        return self.capsys.readouterr()


@pytest.fixture
def prompt(node: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> Iterator[Prompt]:
    made = Prompt(node, capsys)
    with made.db:
        yield made


def test_a_statement_ends_with_a_semicolon(prompt: Prompt) -> None:
    assert prompt.say("SELECT", "1") == ("", "")
    assert prompt.shell.prompt == "     -> "
    assert prompt.say(";")[0] == GOLDEN["table"]
    assert prompt.shell.prompt == "nearql> "


def test_interrupting_forgets_the_statement(prompt: Prompt) -> None:
    prompt.say("SELECT")
    prompt.shell.forget()
    assert prompt.shell.prompt == "nearql> "


def test_errors_leave_the_shell_usable(prompt: Prompt) -> None:
    assert prompt.say("wrong;") == ("", "error: No such word.\n  wrong\n  ^\n")
    assert prompt.say("SELECT 1;")[0] == GOLDEN["table"]


def test_describing(prompt: Prompt) -> None:
    assert prompt.say("\\d")[0] == (
        "table | rows | bytes\n------+------+------\ndocs  |    2 |   100\n(1 row)\n"
    )
    assert prompt.say("\\d docs;")[0] == (
        "column | type      | null     | key         | default\n"
        "-------+-----------+----------+-------------+--------\n"
        "id     | BIGINT    | not null | primary key |\n"
        "vec    | VECTOR(2) |          |             | 1\n"
        "(2 rows)\n"
        "index i1 on vec (hnsw)\n"
    )
    assert prompt.say("\\d x") == ("", "error: There is no table 'x'.\n")


def test_timing(prompt: Prompt) -> None:
    assert prompt.say("\\timing")[0] == "Timing is on.\n"
    assert "\nTime: " in prompt.say("SELECT 1;")[0]
    assert prompt.say("\\timing")[0] == "Timing is off.\n"
    assert "Time" not in prompt.say("SELECT 1;")[0]


def test_timing_takes_on_and_off(prompt: Prompt) -> None:
    """As in psql: off where it is off stays off."""
    assert prompt.say("\\timing off")[0] == "Timing is off.\n"
    assert prompt.say("\\timing on", "\\timing on")[0] == "Timing is on.\n" * 2
    assert "on or off" in prompt.say("\\timing maybe")[1]
    assert prompt.shell.timing


def test_describing_a_name_in_quotes(node: ScriptedServer, prompt: Prompt) -> None:
    prompt.say('\\d "My ""own"" docs";')
    assert node.received[-1].target == "/v1/tables/My%20%22own%22%20docs"


def test_set_goes_with_the_next_statements(node: ScriptedServer, prompt: Prompt) -> None:
    prompt.say("SET target_recall TO 0.9;", "set SESSION x.y = 'it';", "SELECT 1;")
    assert node.received[-1].json["settings"] == {"target_recall": "0.9", "x.y": "it"}
    prompt.say("RESET x.y;", "SELECT 1;")
    assert node.received[-1].json["settings"] == {"target_recall": "0.9"}


def test_watching_ends_with_an_error(node: ScriptedServer, prompt: Prompt) -> None:
    assert "one" in prompt.say("SELECT 1;")[0]
    count = len(node.received)
    prompt.say("\\watch 0 3")
    assert len(node.received) == count + 3
    prompt.say("wrong;", "\\watch 0")
    assert len(node.received) == count + 5


def test_watching_ends_with_a_ctrl_c_that_got_lost_in_a_finaliser(
    node: ScriptedServer, prompt: Prompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Swallows:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)  # Python tells of it on stderr, and goes on

    prompt.say("SELECT 1;")
    count, before = len(node.received), signal.getsignal(signal.SIGINT)
    statement = prompt.shell._statement

    def run(text: str) -> None:
        statement(text)
        Swallows()

    monkeypatch.setattr(prompt.shell, "_statement", run)
    monkeypatch.setattr(sys, "unraisablehook", lambda lost: None)
    prompt.say("\\watch 0 50")
    assert len(node.received) == count + 1
    assert signal.getsignal(signal.SIGINT) is before


def test_help_and_unknown_commands(prompt: Prompt) -> None:
    assert "\\timing" in prompt.say("\\?")[0]
    assert prompt.say("\\nonsense")[1] == "error: no command \\nonsense; \\? lists them\n"


@pytest.mark.parametrize("leaving", ["\\q", "exit;", "quit ;"])
def test_leaving(node: ScriptedServer, leaving: str) -> None:
    done = nearql(node, "sql", stdin=leaving + "\nwrong;\n")
    assert (done.returncode, done.stderr) == (0, b"")


def test_completion_offers_keywords_tables_and_columns(prompt: Prompt) -> None:
    assert {"SELECT", "VECTOR", "docs", "vec"} <= set(words(prompt.db))


def test_completion_offers_a_name_once(prompt: Prompt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt.db, "tables", lambda: [DESCRIBED, {**DESCRIBED, "name": "more"}])
    offered = list(words(prompt.db))
    assert "more" in offered
    assert len(offered) == len(set(offered))


def test_completion_without_a_node_offers_keywords(node: ScriptedServer) -> None:
    import nearql

    with nearql.connect("http://127.0.0.1:9", retries=0) as db:
        assert "SELECT" in set(words(db))


def test_a_broken_pipe_is_no_error(node: ScriptedServer) -> None:
    """As in `nearql sql ... | head -0`."""
    reader, writer = os.pipe()
    os.close(reader)
    with io.FileIO(writer, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "nearql", "sql", "SELECT 1"],
            stdout=closed,
            stderr=subprocess.PIPE,
            env={**os.environ, "NEARQL_URL": node.url},
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, b"")
