"""CHECK TABLE: on a node alone, and what it does about copies that differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from nearql.cluster.cluster import Cluster
from nearql.cluster.metadata.nodes import NodeRow
from nearql.cluster.metadata.shards import ShardRow
from nearql.cluster.metadata.state import Metadata, TableRow
from nearql.cluster.migration import HandOver
from nearql.cluster.repair import DIVERGED, OK, Verdict
from nearql.engine.errors import (
    Conflict,
    InvalidValue,
    NotFound,
    StatementTimeout,
    Unavailable,
    Unsupported,
)
from nearql.engine.schema import Column, ColumnType, TableDef, TableSchema
from nearql.query import patience
from nearql.server.checks import Checks, check_alone
from nearql.server.config import Config, NodeSection
from nearql.server.node import Node
from nearql.server.steps import Steps


def test_a_node_alone_verifies_its_files(tmp_path: Path) -> None:
    with closing(Node.open(Config(node=NodeSection(data_dir=tmp_path)))) as node:
        session = node.session()
        session.execute("CREATE TABLE docs (id BIGINT PRIMARY KEY) WITH (shards = 2)")
        session.execute("INSERT INTO docs SELECT range FROM range(10)")
        found = session.execute("CHECK TABLE docs").table.to_pylist()
        assert list(found[0]) == ["table", "shard", "node", "state", "lsn", "rows", "detail"]
        assert [line["state"] for line in found] == ["ok", "ok"]
        assert sum(line["rows"] for line in found) == 10
        with pytest.raises(NotFound):
            session.execute("CHECK TABLE nowhere")
        with pytest.raises(Conflict, match="alone"):
            session.execute("ALTER TABLE docs SET (replicas = 2)")


def test_it_ends_with_its_statement_between_blocks_of_files(tmp_path: Path) -> None:
    with closing(Node.open(Config(node=NodeSection(data_dir=tmp_path)))) as node:
        node.session().execute("CREATE TABLE docs (id BIGINT PRIMARY KEY, v VECTOR(2))")
        node.session().execute("INSERT INTO docs SELECT range, [range, 1] FROM range(10)")
        table = node.table(node.catalog().tables["docs"].uuid)
        table.checkpoint()
        assert check_alone(table, "n").num_rows == 1
        with patience.until(lambda: 0.0), pytest.raises(StatementTimeout):
            check_alone(table, "n")
        assert check_alone(table, "n")["state"].to_pylist() == ["ok"]


@dataclass
class FakeSteps:
    """Answers what a test wrote down; remembers what was asked."""

    held: dict[str, str]
    asked: list[Any] = field(default_factory=list)
    fails: bool = False
    keeps: str = ""  # why a primary gives nothing away
    given: Callable[[], None] = lambda: None

    def scrub(self, node: str, table_uuid: str) -> dict[int, str]:
        return {}

    def verdicts(self, row: TableRow, number: int, nodes: list[str]) -> list[Verdict]:
        assert nodes[0] == row.shards[number].primary
        return [Verdict(node, self.held[node], 7, 3) for node in nodes]

    def hand_over(self, step: HandOver) -> str:
        self.asked.append(("hand over", step.shard_uuid, step.target))
        self.given()
        return self.keeps

    def condemn(self, node: str, shard_uuid: str, reason: str) -> None:
        if self.fails:
            raise Unavailable("away")
        self.asked.append(("condemn", node, shard_uuid))


def checks(steps: FakeSteps, alive: str = "abc") -> tuple[Checks, TableRow]:
    columns = (Column(1, "id", ColumnType("BIGINT"), not_null=True),)
    table = TableDef("t", "docs", TableSchema(columns, 1), shards=2, replicas=3)
    nodes = ("a", "b", "c")
    shards = tuple(ShardRow(f"s{n}", 1, "a", dict.fromkeys(nodes, "x"), nodes, 2) for n in (0, 1))
    row = TableRow(table, shards, ready=True)
    state = Metadata(nodes={n: NodeRow(n, n.upper(), "u", 1) for n in nodes}, tables={"t": row})
    cluster = SimpleNamespace(
        metadata=SimpleNamespace(state=state), alive=lambda: set(alive), decided=Counter()
    )
    return Checks(cast(Cluster, cluster), cast(Steps, steps)), row


def test_the_odd_copy_is_taken_out() -> None:
    steps = FakeSteps({"a": OK, "b": OK, "c": DIVERGED})
    made, row = checks(steps)
    found = made.check(row).to_pylist()
    assert steps.asked == [("condemn", "c", "s0"), ("condemn", "c", "s1")]
    told = [line["detail"] for line in found if line["node"] == "C"]
    assert all("made anew" in detail for detail in told)


def test_nothing_is_compared_once_nobody_waits() -> None:
    steps = FakeSteps({"a": OK, "b": OK, "c": DIVERGED})
    made, row = checks(steps)
    with patience.until(lambda: 0.0), pytest.raises(StatementTimeout):
        made.check(row)
    assert steps.asked == []


def test_an_odd_primary_gives_all_of_its_table_away_first() -> None:
    steps = FakeSteps({"a": DIVERGED, "b": OK, "c": OK})
    made, row = checks(steps)
    made.check(row)
    assert steps.asked[:3] == [
        ("hand over", "s0", "b"), ("hand over", "s1", "b"), ("condemn", "a", "s0"),
    ]  # fmt: skip


def test_an_odd_primary_that_gives_nothing_away_stays() -> None:
    steps = FakeSteps({"a": DIVERGED, "b": OK, "c": OK}, keeps="no answer")
    made, row = checks(steps)
    found = made.check(row).to_pylist()
    assert not [asked for asked in steps.asked if asked[0] == "condemn"]  # rows could be lost
    assert all("no answer" in line["detail"] for line in found if line["node"] == "A")


def test_shards_that_were_given_away_with_the_first_are_not_asked_for_again() -> None:
    steps = FakeSteps({"a": DIVERGED, "b": OK, "c": OK})
    made, row = checks(steps)
    led = replace(row, shards=tuple(replace(shard, primary="b") for shard in row.shards))
    metadata = cast(SimpleNamespace, made._cluster.metadata)
    now = replace(metadata.state, tables={"t": led})
    steps.given = lambda: setattr(metadata, "state", now)
    made.check(row)
    assert steps.asked == [
        ("hand over", "s0", "b"), ("hand over", "s1", "b"), ("condemn", "a", "s0"),
        ("condemn", "a", "s1"),
    ]  # fmt: skip


def test_what_could_not_be_taken_out_is_told() -> None:
    made, row = checks(FakeSteps({"a": OK, "b": OK, "c": DIVERGED}, fails=True))
    found = made.check(row).to_pylist()
    assert all("away" in line["detail"] for line in found if line["node"] == "C")


def test_a_copy_whose_node_is_away_is_not_judged() -> None:
    made, row = checks(FakeSteps({"a": OK, "b": OK}), alive="ab")
    states = {(line["node"], line["state"]) for line in made.check(row).to_pylist()}
    assert states == {("A", "ok"), ("B", "ok"), ("C", "unknown")}


def test_options_that_are_fixed_are_refused_by_name() -> None:
    from nearql.query.ddl import run_ddl
    from nearql.query.dialect import parse

    class Nothing:
        def catalog(self) -> Any:
            table = TableDef("t", "docs", TableSchema((), 0))
            return SimpleNamespace(tables={"docs": table}, views={}, version=1)

    for text, kind in (
        ("ALTER TABLE docs SET (shards = 2)", Unsupported),
        ("ALTER TABLE docs SET (fillfactor = 2)", InvalidValue),
        ("ALTER TABLE docs SET (replicas = 0)", InvalidValue),
    ):
        (statement,) = parse(text)
        with pytest.raises(kind):
            run_ddl(statement, cast(Any, Nothing()))
