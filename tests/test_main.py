"""The command `nearql` finds its sub-commands and explains itself."""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest

from nearql import __main__ as cli


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("nearql 0.")


@pytest.mark.parametrize("argv", [[], ["--help"], ["help"]])
def test_help_lists_only_what_is_there(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 0
    text = capsys.readouterr().out
    for name, command in cli.COMMANDS.items():
        assert (command.example in text) == cli.exists(name)


def test_unknown_command_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sevre"]) == 2
    assert "no command 'sevre'" in capsys.readouterr().err


def test_a_command_gets_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("echo")
    module.main = lambda argv: len(argv)  # type: ignore[attr-defined]
    module.__spec__ = ModuleSpec("echo", None)
    monkeypatch.setitem(sys.modules, "echo", module)
    monkeypatch.setitem(cli.COMMANDS, "echo", cli.Command("echo", "nearql echo", "for this test"))
    assert cli.main(["echo", "a", "b", "c"]) == 3


def test_an_absent_command_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = cli.Command("nearql.server.cli.absent", "nearql absent", "for this test")
    monkeypatch.setitem(cli.COMMANDS, "absent", absent)
    assert cli.main(["absent"]) == 2
    assert "absent is not part of this version" in capsys.readouterr().err


def test_a_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(_name: str) -> ModuleType:
        raise ModuleNotFoundError("No module named 'duckdb'", name="duckdb")

    monkeypatch.setitem(cli.COMMANDS, "json", cli.Command("json", "nearql json", "for this test"))
    monkeypatch.setattr(importlib, "import_module", missing)
    assert cli.main(["json"]) == 2
    assert "pip install 'nearql[server]'" in capsys.readouterr().err


def test_our_own_missing_module_is_a_bug_and_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_name: str) -> ModuleType:
        raise ModuleNotFoundError("No module named 'nearql.gone'", name="nearql.gone")

    monkeypatch.setitem(cli.COMMANDS, "json", cli.Command("json", "nearql json", "for this test"))
    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(ModuleNotFoundError):
        cli.main(["json"])
