"""`connect("./directory")`: opened, locked, closed and found again; by the command line too."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

import nearql
from nearql.__main__ import main
from nearql.client import errors
from support.clients import Connect
from support.server_process import ServerProcess


def test_rows_are_there_when_it_is_opened_again(connect: Connect, tmp_path: Path) -> None:
    with connect(tmp_path / "data") as db:
        db.sql("CREATE TABLE t (id BIGINT PRIMARY KEY)")
        db.insert("t", {"id": list(range(1000))})
    with connect(str(tmp_path / "data")) as db:
        assert db.sql("SELECT count(*), max(id) FROM t").fetchall() == [(1000, 999)]


def test_a_directory_in_use_is_named(connect: Connect, tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data"), pytest.raises(errors.Unavailable) as caught:
        connect(tmp_path / "data")
    assert caught.value.code == "data_dir_in_use"
    assert f"{tmp_path / 'data'} is in use by another process (pid " in str(caught.value)


def test_a_directory_that_is_open_here_is_named(connect: Connect, tmp_path: Path) -> None:
    with connect(tmp_path / "data"), pytest.raises(errors.Unavailable) as caught:
        connect(tmp_path / "data")
    assert caught.value.code == "data_dir_in_use"
    assert "open in this process already: use that connection" in str(caught.value)


def test_a_closed_connection_says_so(connect: Connect, tmp_path: Path) -> None:
    with connect(tmp_path / "data") as db:
        db.close()
        with pytest.raises(errors.UsageError, match="closed"):
            db.sql("SELECT 1")


def test_without_the_servers_packages_it_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['duckdb'] = None\n"
        "import nearql\n"
        "try: nearql.connect('./data')\n"
        "except nearql.client.errors.UsageError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "pip install 'nearql[server]'" in done.stdout
    assert not (tmp_path / "data").exists()


def test_the_command_line_opens_a_directory(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nearql", "sql", "SELECT 6 * 7 AS n", "--url", "./data"],
        cwd=tmp_path,
        env={**os.environ, "NEARQL_URL": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "n\n--\n42\n(1 row)\n"), done.stderr


def test_the_event_loop_goes_on_during_a_call(tmp_path: Path) -> None:
    """A statement runs in a thread; meanwhile other tasks have their turn."""

    async def main() -> int:
        async with await nearql.aconnect(tmp_path / "data") as db:
            turns = 0
            slow = asyncio.create_task(db.sql("SELECT sum(i) FROM range(10000000) t(i)"))
            while not slow.done():
                await asyncio.sleep(0)
                turns += 1
            assert (await slow).fetchall() == [(49999995000000,)]
            return turns

    assert asyncio.run(main()) > 10


def test_asyncio_opens_and_closes_in_one_line(tmp_path: Path) -> None:
    async def main() -> None:
        async with nearql.aconnect(tmp_path / "data") as db:
            assert (await db.sql("SELECT 1")).fetchall() == [(1,)]
            async with db.stream("SELECT 1 AS n") as batches:
                assert [batch.num_rows async for batch in batches] == [1]
        assert db.closed
        db = await asyncio.create_task(nearql.aconnect(tmp_path / "data"))
        await db.close()
        with pytest.raises(errors.UsageError, match="connect takes"):
            async with nearql.aconnect(""):
                pass

    asyncio.run(main())
    asyncio.run(asyncio.run(nearql.aconnect(tmp_path / "data")).close())


@pytest.mark.parametrize("command", ["token list", "token create app", "cluster join"])
def test_what_only_a_node_has_is_told(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *arguments = command.split()
    assert main([name, *arguments, "--url", str(tmp_path / "data")]) == 1
    said = capsys.readouterr().err
    assert "is for a node that serves" in said
    assert "`nearql serve`" in said
