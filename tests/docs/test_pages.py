"""Pages hang together: each is reachable from README, anchors and what they name exist."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from nearql.__main__ import COMMANDS
from nearql.client.files import OPENERS
from support.doc_pages import ROOT, pages, tables_below
from support.server_process import ServerProcess

pytestmark = pytest.mark.docs

LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)#?([^)\s]*)\)")
FENCED = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
CODE_PATH = re.compile(
    r"`((?:tests|benchmarks|docker|docs|engine|query|server|client|cluster)/[\w./-]+)`"
)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def prose(page: Path) -> str:
    return FENCED.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The anchors that a reader's site makes of the headings."""
    heads = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", head.lower()) for head in heads]
    return {head.replace(" ", "-") for head in plain}


def test_every_page_is_reachable_from_readme() -> None:
    reached: set[Path] = set()
    ahead = [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in reached:
            continue
        reached.add(page)
        for link, _ in LINK.findall(prose(page)):
            target = (page.parent / link).resolve()
            if target.is_dir():
                ahead += sorted(target.glob("*.md"))
            elif target.suffix == ".md" and target.exists():
                ahead.append(target)
    assert set(pages()) <= reached


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_anchors_exist(page: Path) -> None:
    for link, anchor in LINK.findall(prose(page)):
        target = (page.parent / link).resolve() if link else page
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{link}#{anchor}"


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_files_that_a_page_names_exist(page: Path) -> None:
    for path in CODE_PATH.findall(prose(page)):
        assert (ROOT / path).exists() or (ROOT / f"{path}.py").exists(), path


def test_readme_opens_with_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    first = re.search(r"```sh\n(.*?)```", text, re.DOTALL)
    assert first is not None
    assert re.findall(r"^python3 dev\.py \w+", first[1], re.MULTILINE) == [
        "python3 dev.py demo",
        "python3 dev.py test",
    ]
    assert text.index("```sh") < 600
    assert len(text.splitlines()) <= 150


def test_every_metric_is_listed(tmp_path: Path) -> None:
    page = ROOT / "docs" / "operating.md"
    listed = {row[0].strip("`"): row[1] for row in tables_below(page, "### Metrics")}
    with ServerProcess(tmp_path / "data") as server:
        server.sql("CREATE TABLE t (id INTEGER)")
        text = server.http.get("/metrics").text
    served = dict(re.findall(r"^# TYPE (nearql_\w+) (\w+)$", text, re.MULTILINE))
    assert listed == {n: kind for n, kind in served.items() if not n.endswith("_created")}


def test_log_events_are_listed() -> None:
    page = ROOT / "docs" / "operating.md"
    listed = {
        event for row in tables_below(page, "### Logs") for event in re.findall(r"`(\w+)`", row[0])
    }
    found: set[str] = set()
    for path in (*(ROOT / "server").rglob("*.py"), *(ROOT / "cluster").rglob("*.py")):
        found |= set(re.findall(r'\blog\.\w+\(\s*"(\w+)"', path.read_text()))
    assert listed == found - {"notice", "request"}  # never used yet; told as `log.requests`


def test_every_command_and_file_format_is_listed() -> None:
    page = ROOT / "docs" / "client.md"
    named = {
        row[0].split()[1].strip("`")
        for row in tables_below(page, "## Command line")
        if row[0].startswith("`nearql")
    }
    assert named == {name for name, command in COMMANDS.items() if find_spec(command.module)}
    suffixes = {
        suffix
        for row in tables_below(page, "### nearql load")
        for suffix in re.findall(r"`\.(\w+)`", row[0])
    }
    assert suffixes == set(OPENERS)
