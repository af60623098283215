"""What is in the tree is what people install, and the client alone stays light."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"client", "engine", "query", "cluster", "server"}
SERVER_ONLY = {"duckdb", "faiss-cpu", "sqlglot", "starlette", "uvicorn"}


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run a program that must succeed; its output."""
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_mapping_matches_tree() -> None:
    """The wheel's mapping, the development symlinks and the real folders name the same packages."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = config["tool"]["hatch"]["build"]["targets"]["wheel"]
    links = {path.name for path in (ROOT / "src/nearql").iterdir() if path.is_symlink()}
    mapped = {target.removeprefix("nearql/") for target in wheel["sources"].values()} - {"nearql"}
    banned = config["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"]
    assert links == mapped == PACKAGES
    assert {path.rsplit("/", 1)[1] for path in wheel["exclude"]} == PACKAGES
    assert set(wheel["only-include"]) == PACKAGES | {"src/nearql"}
    assert set(banned) >= PACKAGES
    for name in PACKAGES:
        assert (ROOT / name / "__init__.py").is_file()


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist of this tree."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-d", folder)
    return folder


def contents(wheel: Path) -> set[str]:
    """Names of the package's files in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if name.startswith("nearql/")}


def expected() -> set[str]:
    """What git would commit of the packages, under the names that they import as."""
    listing = run("git", "ls-files", "-co", "--exclude-standard", *PACKAGES, "src/nearql")
    files = {name for name in listing.splitlines() if (ROOT / name).is_file()}
    return {
        f"nearql/{name.removeprefix('src/nearql/')}"
        for name in files
        if not (ROOT / name).is_symlink()
    }


@pytest.mark.packaging
def test_wheel_holds_every_file(dist: Path) -> None:
    """The dashboard's static files and py.typed included."""
    (wheel,) = dist.glob("*.whl")
    assert contents(wheel) == expected()


@pytest.mark.packaging
def test_wheel_from_sdist_is_the_same(dist: Path, tmp_path: Path) -> None:
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (tree,) = tmp_path.iterdir()
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "out", cwd=tree)
    (again,) = (tmp_path / "out").glob("*.whl")
    assert contents(again) == contents(wheel)


@pytest.fixture(scope="session")
def client_only(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment in which only `pip install nearql` was run."""
    home = tmp_path_factory.mktemp("client") / "venv"
    base = getattr(sys, "_base_executable", sys.executable)  # ours may have no pip inside
    run(base, "-m", "venv", "--without-pip", home)
    python = home / "bin/python"
    (wheel,) = dist.glob("*.whl")
    run(base, "-m", "pip", "--python", python, "install", "-q", "--only-binary=:all:", wheel)
    return python


@pytest.mark.packaging
@pytest.mark.timeout(600)
def test_client_alone_is_light(client_only: Path, tmp_path: Path) -> None:
    program = "import importlib.metadata as m; print(*(d.name.lower() for d in m.distributions()))"
    installed = set(run(client_only, "-c", program, cwd=tmp_path).split())
    assert "nearql" in installed
    assert not installed & SERVER_ONLY


@pytest.mark.packaging
@pytest.mark.timeout(600)
def test_client_alone_works(client_only: Path, tmp_path: Path) -> None:
    nearql = client_only.parent / "nearql"
    assert run(nearql, "--version", cwd=tmp_path).startswith("nearql ")
    run(client_only, "-c", "import nearql; nearql.connect, nearql.aconnect", cwd=tmp_path)


@pytest.mark.packaging
@pytest.mark.timeout(600)
def test_server_command_names_the_missing_extra(client_only: Path, tmp_path: Path) -> None:
    serve = [str(client_only.parent / "nearql"), "serve", "--help"]
    done = subprocess.run(serve, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'nearql[server]'" in done.stderr


@pytest.mark.packaging
@pytest.mark.timeout(600)
def test_import_is_quick(client_only: Path, tmp_path: Path) -> None:
    """`import nearql` under 150 ms: the best of five, since other work may share the machine."""
    program = "import time; t = time.perf_counter(); import nearql; print(time.perf_counter() - t)"
    seconds = min(float(run(client_only, "-c", program, cwd=tmp_path)) for _ in range(5))
    assert seconds < 0.150
