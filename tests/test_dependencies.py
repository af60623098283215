"""Every dependency has its line of why, and the device extras exclude each other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]


def names(requirements: list[Any]) -> set[str]:
    """Package names, without versions, our own extras and included groups."""
    texts = [text for text in requirements if isinstance(text, str)]
    return {re.split(r"[><=\[; ]", text)[0] for text in texts} - {"nearql"}


@pytest.mark.docs
def test_every_dependency_is_explained() -> None:
    groups = [PROJECT["project"]["dependencies"], *EXTRAS.values()]
    wanted = set().union(*map(names, [*groups, *PROJECT["dependency-groups"].values()]))
    page = (ROOT / "docs/dependencies.md").read_text()
    cells = re.findall(r"^\| (?!package)([^|]+) \|", page, re.MULTILINE)
    explained = {name.strip() for cell in cells for name in cell.split(",")}
    assert explained == wanted


def test_each_server_extra_holds_one_faiss() -> None:
    for extra in ("server", "gpu", "gpu-cuvs"):
        assert "nearql[server-core]" in EXTRAS[extra]
        assert len([name for name in names(EXTRAS[extra]) if name.startswith("faiss")]) == 1
    assert not [name for name in names(EXTRAS["server-core"]) if name.startswith("faiss")]


@pytest.mark.parametrize("lock", ["requirements.lock", "docker/requirements.lock"])
def test_locks_hold_every_dependency(lock: str) -> None:
    """A dependency added without `python3 dev.py lock` fails here, not on a newcomer's machine."""
    text = (ROOT / lock).read_text() + (ROOT / "source.lock").read_text()
    pinned = set(re.findall(r"^([a-z0-9-]+)==", text, re.MULTILINE))
    needed = names(PROJECT["project"]["dependencies"] + EXTRAS["server-core"] + EXTRAS["server"])
    assert {name.lower().replace("_", "-") for name in needed} <= pinned


def test_the_image_for_gpus_differs_by_what_a_gpu_takes() -> None:
    cpu, gpu = (
        dict(
            re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "docker" / lock).read_text(), re.MULTILINE)
        )
        for lock in ("requirements.lock", "requirements-gpu.lock")
    )
    assert {name.lower() for name in names(EXTRAS["gpu"])} <= gpu.keys() | {"nearql"}
    assert cpu.keys() - gpu.keys() == {"faiss-cpu"}
    added = gpu.keys() - cpu.keys()
    assert {"faiss-gpu", "cupy-cuda12x", "nvidia-cuda-runtime-cu12"} <= added
    assert all(name.split("-")[0] in ("cuda", "cupy", "faiss", "nvidia") for name in added)
    assert all(gpu[name] == version for name, version in cpu.items() if name in gpu)


def test_what_has_no_wheel_is_locked_in_one_place_only() -> None:
    """pip takes wheels alone for the other locks: a source package there would fail to install."""
    source = names(PROJECT["dependency-groups"]["source"])
    for lock in (
        "requirements.lock",
        "docker/requirements.lock",
        "docker/build.lock",
        "docker/requirements-gpu.lock",
    ):
        pinned = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / lock).read_text(), re.MULTILINE))
        assert not source & pinned
    assert all(f"{name}==" in (ROOT / "source.lock").read_text() for name in source)
