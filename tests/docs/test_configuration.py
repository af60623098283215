"""docs/configuration.md lists every setting with its default and meaning, and nothing else."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from nearql.server.config import SECTIONS, load_config
from nearql.server.sizes import parse_size

PAGE = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"
ROW = re.compile(r"^\| `(\w+\.\w+)` \| (.+?) \| (.+) \|$", re.MULTILINE)

pytestmark = pytest.mark.docs


def test_the_page_lists_exactly_the_settings_there_are() -> None:
    listed = [name for name, _, _ in ROW.findall(PAGE.read_text())]
    assert listed == [f"{s}.{f.name}" for s, kind in SECTIONS.items() for f in fields(kind)]


def test_the_page_tells_the_defaults_and_meanings_in_force() -> None:
    for name, default, text in ROW.findall(PAGE.read_text()):
        section, _, key = name.partition(".")
        setting = next(f for f in fields(SECTIONS[section]) if f.name == key)
        assert text == setting.metadata["help"], name
        shown = default.strip("`").removeprefix("-")
        if setting.metadata.get("size"):
            assert parse_size(shown) == setting.default, name
        else:
            assert shown == str(setting.default), name


def test_the_example_file_is_valid(tmp_path: Path) -> None:
    example = PAGE.read_text().split("```yaml\n")[1].split("```")[0]
    (tmp_path / "node.yaml").write_text(example)
    assert load_config(tmp_path / "node.yaml", environment={}).limits.json_body == 64 << 20
