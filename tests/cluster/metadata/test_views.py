"""Views in the metadata state machine: what they hold fast, and what CASCADE takes along."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest

from nearql.cluster.metadata import commands as c
from nearql.cluster.metadata import state as s
from nearql.cluster.metadata.codec import decode_command, encode_command, from_plain, to_plain
from nearql.cluster.metadata.views import CreateView, DropView
from nearql.engine.named_query import ViewColumn, ViewDef, dependents
from nearql.engine.schema import Column, ColumnType, TableDef, TableSchema


def rid() -> str:
    return uuid.uuid4().hex


def table(name: str, uuid_: str, *columns: str) -> TableDef:
    made = tuple(Column(n, one, ColumnType("BIGINT")) for n, one in enumerate(columns, 1))
    return TableDef(uuid_, name, TableSchema(made, 1))


def created(name: str, uuid_: str, *columns: str) -> list[c.Command]:
    made = table(name, uuid_, *columns)
    return [
        c.CreateTable(request_id=rid(), table=made, shard_uuids=(f"{uuid_}-0",), nodes=("n",)),
        c.TableReady(request_id=rid(), table_uuid=uuid_, alloc_ids={"n": "a"}),
    ]


def view(name: str, *reads: str, needs: tuple[str, ...] = ("id",)) -> ViewDef:
    columns = tuple(ViewColumn(one, one, "BIGINT") for one in needs)
    return ViewDef(
        f"{name}-uuid", name, f"SELECT id -- {name}", columns, tuple(sorted(reads)), needs
    )


def define(made: ViewDef, *, or_replace: bool = False) -> CreateView:
    return CreateView(request_id=rid(), view=made, or_replace=or_replace)


def run(*commands: c.Command) -> tuple[s.Metadata, list[s.Result]]:
    state, results = s.Metadata(), []
    for command in commands:
        state, result = s.apply(state, command)
        state.check_invariants()
        results.append(result)
    return state, results


DOCS = created("docs", "t1", "id", "title")


def altered(*columns: str, name: str | None = None) -> c.ReplaceSchema:
    schema = replace(table("docs", "t1", *columns).schema, version=2)
    return c.ReplaceSchema(
        request_id=rid(), table_uuid="t1", schema=schema, expected_version=1, new_name=name
    )


def test_a_view_is_defined_and_plans_see_it() -> None:
    before, _ = run(*DOCS)
    state, results = run(*DOCS, define(view("v", "t1")))
    assert results[-1] == s.Result(value="v-uuid")
    assert state.views["v-uuid"].name == "v"
    assert state.version == before.version + 1


def test_names_are_shared_with_tables_whatever_their_case() -> None:
    commands = [
        define(view("DOCS", "t1")),
        define(view("v", "t1")),
        define(replace(view("V", "t1"), uuid="o")),
        created("V", "t2", "id")[0],
        altered("id", "title", name="V"),
    ]
    state, results = run(*DOCS, *commands)
    assert [r.code for r in results[2:]] == ["duplicate_table", "", *["duplicate_table"] * 3]
    assert list(state.views) == ["v-uuid"]


def test_a_view_reads_only_what_is_there_and_ready() -> None:
    unready = created("t", "t2", "id")[0]
    state, results = run(*DOCS, unready, define(view("v", "t2")), define(view("w", "gone")))
    assert [r.code for r in results[3:]] == ["schema_changed"] * 2
    assert not state.views


def test_what_a_view_reads_is_dropped_with_cascade_or_not_at_all() -> None:
    views = [define(view("v", "t1")), define(view("w", "v-uuid")), define(view("other"))]
    state, results = run(*DOCS, *views, c.DropTable(request_id=rid(), table_uuid="t1"))
    assert results[-1].code == "dependent_object"
    assert "View 'v' reads it" in results[-1].detail
    assert len(state.views) == 3
    both = c.DropTable(request_id=rid(), table_uuid="t1", cascade=True)
    state, results = run(*DOCS, *views, both)
    assert results[-1].ok
    assert list(state.views) == ["other-uuid"]


def test_a_view_that_another_reads_is_dropped_with_cascade_or_not_at_all() -> None:
    views = [define(view("v", "t1")), define(view("w", "v-uuid")), define(view("x", "w-uuid"))]
    state, results = run(*DOCS, *views, DropView(request_id=rid(), view_uuid="w-uuid"))
    assert (results[-1].code, len(state.views)) == ("dependent_object", 3)
    state, _ = run(*DOCS, *views, DropView(request_id=rid(), view_uuid="w-uuid", cascade=True))
    assert list(state.views) == ["v-uuid"]
    _, results = run(DropView(request_id=rid(), view_uuid="nope"))
    assert results[-1].code == "undefined_table"


def test_columns_that_a_view_may_need_stay() -> None:
    views = [define(view("v", "t1")), define(view("w", "v-uuid", needs=("title",)))]
    _, results = run(*DOCS, *views, altered("id"))
    assert results[-1].code == "dependent_object"
    assert "'w' may need column 'title'" in results[-1].detail
    _, results = run(*DOCS, *views, altered("id", "title", "new"))
    assert results[-1].ok
    _, results = run(*DOCS, *views, altered("id", "TITLE"))
    assert results[-1].ok


def test_a_table_keeps_its_name_while_a_view_reads_it() -> None:
    _, results = run(*DOCS, define(view("v", "t1")), altered("id", "title", name="papers"))
    assert results[-1].code == "dependent_object"
    _, results = run(*DOCS, define(view("v", "t1")), altered("id", "title", name="docs"))
    assert results[-1].ok


def test_a_replaced_view_keeps_its_uuid_and_what_its_readers_need() -> None:
    wide = view("v", "t1", needs=("id", "title"))
    reader = define(view("w", "v-uuid", needs=("title",)))
    newer = replace(wide, uuid="new", query="SELECT 2")
    state, results = run(*DOCS, define(wide), reader, define(newer, or_replace=True))
    assert results[-1] == s.Result(value="v-uuid")
    assert state.views["v-uuid"].query == "SELECT 2"
    narrow = replace(view("v", "t1"), uuid="new")
    _, results = run(*DOCS, define(wide), reader, define(narrow, or_replace=True))
    assert results[-1].code == "dependent_object"


def test_no_view_reads_itself() -> None:
    views = [define(view("v", "t1")), define(view("w", "v-uuid"))]
    for reads in ("v-uuid", "w-uuid"):
        _, results = run(*DOCS, *views, define(view("v", reads), or_replace=True))
        assert results[-1].code == "dependent_object"
        assert "read itself" in results[-1].detail


def test_a_repeated_request_defines_once() -> None:
    once = define(view("v", "t1"))
    state, results = run(*DOCS, once, once)
    assert results[-1] == results[-2] == s.Result(value="v-uuid")
    assert len(state.views) == 1


def test_views_survive_the_codec() -> None:
    command = define(view("v", "t1"), or_replace=True)
    assert decode_command(encode_command(command)) == command
    state, _ = run(*DOCS, command)
    assert from_plain(s.Metadata, to_plain(state)) == state


def test_a_state_from_before_views_has_none() -> None:
    plain = to_plain(s.Metadata())
    del plain["views"]
    assert from_plain(s.Metadata, plain).views == {}


@pytest.mark.parametrize(
    ("going", "expected"),
    [({"t1"}, "vw"), ({"v-uuid"}, "w"), ({"w-uuid"}, ""), ({"t2"}, "x"), ({"t1", "t2"}, "vwx")],
)
def test_dependents_are_found_through_other_views(going: set[str], expected: str) -> None:
    views = [view("w", "v-uuid"), view("x", "t2"), view("v", "t1")]
    assert "".join(one.name for one in dependents(going, views)) == expected
