"""The documentation as data: pages, their fenced blocks, and how printed output is compared.

A block stands between fences and has a language. An HTML comment right above it,
`<!-- not run: reason -->`, says why a test doesn't run it. A `text` block right below one holds the
output of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^( *)```(\w*)\s*$")
_NOT_RUN = re.compile(r"^ *<!-- not run: (.+) -->$")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block. line: of its first fence, from 1. output: the `text` block below it."""

    language: str
    text: str
    line: int
    not_run: str | None = None  # the reason
    output: str | None = None


def pages() -> list[Path]:
    """Every page, README first."""
    top = [ROOT / "README.md", *sorted(p for p in ROOT.glob("*.md") if p.name != "README.md")]
    return [*top, *sorted(ROOT.glob("docs/**/*.md"))]


def blocks(page: Path) -> list[Block]:
    """The page's blocks in order; `text` blocks that are output belong to what they follow."""
    found: list[Block] = []
    end = -1  # the line on which the last block that may have output ended
    lines = page.read_text(encoding="utf-8").splitlines()
    at = 0
    while at < len(lines):
        fence = _FENCE.match(lines[at])
        if fence is None:
            at += 1
            continue
        stop = lines.index(f"{fence[1]}```", at + 1)
        text = "\n".join(line.removeprefix(fence[1]) for line in lines[at + 1 : stop])
        if fence[2] == "text" and found and not any(line.strip() for line in lines[end + 1 : at]):
            last = found.pop()
            found.append(Block(last.language, last.text, last.line, last.not_run, text))
        else:
            marker = _NOT_RUN.match(lines[at - 1]) if at else None
            found.append(Block(fence[2], text, at + 1, marker[1] if marker else None))
        end = stop
        at = stop + 1
    return found


def matches(expected: str, got: str) -> bool:
    """Whether they are the same but for white space and what `...` stands for."""
    pattern = ".*".join(re.escape("".join(part.split())) for part in expected.split("..."))
    return re.fullmatch(pattern, "".join(got.split()), re.DOTALL) is not None


def tables_below(page: Path, heading: str) -> list[list[str]]:
    """The cells of every table row under a heading, up to the next of its rank; heads left out."""
    text = page.read_text(encoding="utf-8")
    rank = heading.split()[0]
    _, found, rest = text.partition(f"\n{heading}\n")
    assert found, f"{page.name} has no heading {heading!r}"
    part = re.split(rf"^#{{1,{len(rank)}}} ", rest, flags=re.MULTILINE)[0]
    lines = part.splitlines()
    heads = {i for i in range(len(lines) - 1) if re.fullmatch(r"\|[-| :]+\|", lines[i + 1])}
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for i, line in enumerate(lines)
        if line.startswith("|") and i not in heads and i - 1 not in heads
    ]
