"""`nearql doctor`: what it finds, and that whatever is not well comes with what to do."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from nearql.engine.backends import probe_backends
from nearql.engine.backends.probe import BackendCheck
from nearql.server.cli import doctor


def findings(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    """The exit code, and the findings by their check's name."""
    code = doctor.main([*arguments, "--json"])
    return code, {each["check"]: each for each in json.loads(capsys.readouterr().out)}


def test_a_machine_that_is_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = findings(capsys, "--data-dir", str(tmp_path / "data"))
    assert code == 0
    assert {"python", "backend numpy", "searches run on", "memory", "disk sync", "clock"} <= set(
        found
    )
    assert found["backend numpy"]["status"] == "ok"
    assert "ms" in found["disk sync"]["detail"]
    assert all(each["remedy"] for each in found.values() if each["status"] != "ok")
    assert not (tmp_path / "data").exists()


def test_a_port_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("NEARQL_HTTP_PORT", str(taken.getsockname()[1]))
        code, found = findings(capsys, "--data-dir", str(tmp_path))
    assert (code, found["port"]["status"]) == (0, "warning")
    assert "--port" in found["port"]["remedy"]


def test_a_disk_that_takes_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    code, found = findings(capsys, "--data-dir", "/proc/nearql-data")
    said = found.get("disk sync") or found["data directory"]  # the latter unless we are root
    assert (code, said["status"]) == (1, "failed")
    assert "--data-dir" in said["remedy"]


def test_more_memory_than_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NEARQL_ENGINE_MEMORY_LIMIT", "9TiB")
    code, found = findings(capsys, "--data-dir", str(tmp_path))
    assert (code, found["memory"]["status"]) == (1, "failed")
    assert "lower engine.memory_limit" in found["memory"]["remedy"]


def test_the_table_shows_remedies_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Brackets, as in the names of extras, are text and no markup."""
    missing = BackendCheck("faiss_cpu", False, "faiss isn't installed")

    def probed(settings: Any) -> Any:
        backend, report = probe_backends(settings)
        others = tuple(each for each in report.checks if each.name != "faiss_cpu")
        return backend, type(report)(
            report.chosen, report.device, report.reason, (*others, missing), report.warnings
        )

    monkeypatch.setattr(doctor, "probe_backends", probed)
    assert doctor.main(["--data-dir", str(tmp_path)]) == 0
    assert "-> indexes need it: pip install 'nearql[server]'" in capsys.readouterr().out


def test_a_configuration_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["--config", "none.yaml"]) == 2
    assert "none.yaml can't be read" in capsys.readouterr().err
