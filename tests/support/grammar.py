"""A grammar of statements around vector searches, for the differential fuzzer.

    statement := search | range | join | groups | united | wrapped
    search    := SELECT items FROM source WHERE filter ORDER BY distance [DESC] LIMIT k [OFFSET o]
    source    := docs | view | (sub-query) alias | WITH name | two of them joined
    filter    := comparison | LIKE | IN (query) | EXISTS (query) | distance < r | AND, OR, NOT

A statement is text in the notation of `support.model`, with whether it defines the order of its
rows. Everything that decides which rows come is spelled out, ties by a key included, so that two
right executors must agree; `{tie:...}` leaves it to NearQL where its rules promise the same.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from support.model import OPERATORS, vector

VIEWS = {
    "cheap": "SELECT * FROM docs WHERE price < 6",
    "renamed (n, label, cost, v)": "SELECT id, cat, price, vec FROM docs WHERE NOT id % 4 = 1",
    "computed": "SELECT id * 2 AS id, upper(cat) AS cat, price + 1 AS price, vec FROM cheap",
    "joined": (
        "SELECT d.id, d.cat, a.id AS price, d.vec FROM docs d JOIN asked a ON a.id = d.price"
    ),
    "united": (
        "SELECT id, cat, price, vec FROM docs UNION ALL SELECT id + 900, 'u', 1, v FROM asked"
    ),
    "few": "SELECT * FROM docs ORDER BY id DESC LIMIT 9",
}
COLUMNS = ("id", "cat", "price", "vec")
RENAMED = ("n", "label", "cost", "v")


@dataclass(frozen=True)
class Source:
    """An item of a FROM clause. plain: a base table, whose key breaks ties. ctes: it needs them."""

    text: str
    alias: str
    id: str = "id"
    cat: str = "cat"
    price: str = "price"
    vec: str = "vec"
    plain: bool = False
    unique: bool = True
    ctes: tuple[str, ...] = ()

    def of(self, name: str) -> str:
        """A column, qualified."""
        return f"{self.alias}.{getattr(self, name)}"


@dataclass
class Statement:
    """Text, whether its order is defined, and parameters that it may name.

    split: a condition to add to its WHERE that cuts its rows in two, where that is possible.
    """

    text: str
    ordered: bool
    split: str | None = None
    params: dict[str, Any] = field(default_factory=dict)


class Grammar:
    """Makes statements from one source of chance."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.count = 0

    def statement(self) -> Statement:
        """Any statement."""
        make = self.chance.choice(
            [self.search, self.search, self.search, self.within, self.join, self.join, self.groups,
             self.united, self.wrapped, self.wrapped, self.beside]
        )  # fmt: skip
        made = make()
        made.params = {
            "q": self._query_vector(), "q2": vector(self.chance), "k": self.chance.choice(
                [0, 1, 1, 2, 3, 5, 8, 13, 60]
            ), "o": self.chance.choice([0, 0, 1, 2, 5, 50]), "r": self.chance.randint(-2, 6) / 2,
            "n": self.chance.randint(0, 9),
        }  # fmt: skip
        return made

    def _query_vector(self) -> list[int] | None:
        return None if self.chance.random() < 0.03 else vector(self.chance)

    def _pick(self, *choices: str) -> str:
        return self.chance.choice(choices)

    def _alias(self) -> str:
        self.count += 1
        return f"t{self.count}"

    # ---- parts ------------------------------------------------------------------------

    def distance(self, vec: str, *, constant: bool = True) -> str:
        """A distance of a vector column to a constant, or to one that is no search's."""
        kind = self.chance.choice(list(OPERATORS))
        others = [":q", ":q", ":q", ":q2", "'[1, 0, -1]'", "(SELECT v FROM asked WHERE id = 1)"]
        other = self.chance.choice(others)
        if other != "(SELECT v FROM asked WHERE id = 1)" and self.chance.random() < 0.2:
            return f"{{{kind}:{other}|{vec}}}"
        return f"{{{kind}:{vec}|{other}}}"

    def source(self, depth: int = 2) -> Source:
        """Something with the columns of docs."""
        roll = self.chance.random()
        if roll < 0.4 or depth == 0:
            alias = self._pick("docs", self._alias())
            return Source("docs" if alias == "docs" else f"docs {alias}", alias, plain=True)
        if roll < 0.6:
            return self._view()
        inner = self.source(depth - 1)
        query, renamed = self._plain_query(inner)
        alias = self._alias()
        names: dict[str, Any] = dict(zip(COLUMNS, "icpe", strict=True)) if renamed else {}
        if roll < 0.8:
            return Source(
                f"({query}) AS {alias}", alias, **names, unique=inner.unique, ctes=inner.ctes
            )
        how = self._pick("", "", "MATERIALIZED ", "NOT MATERIALIZED ")
        name = f"w{self.count}"
        cte = f"{name} AS {how}({query})"
        text = f"{name} AS {alias}" if self.chance.random() < 0.5 else name
        return Source(
            text, alias if " AS " in text else name, **names, unique=inner.unique,
            ctes=(*inner.ctes, cte),
        )  # fmt: skip

    def _view(self) -> Source:
        name = self.chance.choice([view.split(" ")[0] for view in VIEWS])
        alias = self._alias()
        is_renamed = name == "renamed"
        names: dict[str, Any] = dict(zip(COLUMNS, RENAMED, strict=True)) if is_renamed else {}
        return Source(f"{name} {alias}", alias, **names, unique=name not in ("joined", "united"))

    def _plain_query(self, inner: Source) -> tuple[str, bool]:
        """A query of a source's columns, and whether it renames them."""
        where = f" WHERE {self.filter(inner)}" if self.chance.random() < 0.6 else ""
        names = [inner.of(one) for one in COLUMNS]
        if self.chance.random() < 0.3:
            items = ", ".join(f"{a} AS {b}" for a, b in zip(names, "icpe", strict=True))
            return f"SELECT {items} FROM {inner.text}{where}", True
        if (inner.id, inner.vec) == ("id", "vec") and self.chance.random() < 0.5:
            return f"SELECT * FROM {inner.text}{where}", False
        items = ", ".join(f"{a} AS {b}" for a, b in zip(names, COLUMNS, strict=True))
        return f"SELECT {items} FROM {inner.text}{where}", False

    def filter(self, source: Source, depth: int = 2) -> str:
        """A condition over a source."""
        roll = self.chance.random()
        if depth and roll < 0.15:
            return f"({self.filter(source, depth - 1)} AND {self.filter(source, depth - 1)})"
        if depth and roll < 0.25:
            return f"({self.filter(source, depth - 1)} OR {self.filter(source, depth - 1)})"
        if depth and roll < 0.32:
            return f"(NOT {self.filter(source, depth - 1)})"
        i, c, p, v = (source.of(name) for name in COLUMNS)
        bare = source.price if self.chance.random() < 0.3 else p
        a = self._alias()
        return self._pick(
            f"{bare} < {self.chance.randint(0, 9)}", f"{p} >= :n", f"{c} = 'a'", f"{c} IS NULL",
            f"{c} LIKE '%b%'", f"{p} BETWEEN 2 AND 6", f"{i} % 3 = 1", "TRUE", f"{v} IS NOT NULL",
            f"{i} IN (SELECT {a}.id FROM asked {a})",
            f"{p} > (SELECT avg({a}.price) FROM docs {a})",
            f"EXISTS (SELECT 1 FROM asked {a} WHERE {a}.id = {i})",
            f"{p} IN (SELECT {a}.id FROM docs {a} WHERE {{present:{a}.vec}} "
            f"ORDER BY {{l2:{a}.vec|:q2}}{{tie:, {a}.id}} LIMIT 5)",
            f"{self.distance(v)} < :r", f"{self.distance(v)} >= 1",
            f"coalesce({c}, 'z') IN ('a', 'z')",
        )  # fmt: skip

    def _with(self, *sources: Source) -> str:
        ctes = [cte for source in sources for cte in source.ctes]
        return f"WITH {', '.join(ctes)} " if ctes else ""

    # ---- statements ---------------------------------------------------------------------

    def top(self, source: Source, *, limit: str = ":k") -> tuple[str, str]:
        """(FROM ... LIMIT, the distance) of a search for rows of a source; rows in order."""
        distance = self.distance(source.of("vec"))
        where = f"{self.filter(source)} AND " if self.chance.random() < 0.7 else ""
        key = source.of("id")
        tie = f"{{tie:, {key}}}" if source.plain and self.chance.random() < 0.6 else f", {key}"
        if not source.unique:
            tie = f", {key}, {source.of('cat')}, {source.of('price')}"
        order = self._pick(distance, distance, distance, f"({distance})", f"1 - {distance}")
        down = " DESC NULLS LAST" if self.chance.random() < 0.15 else ""
        offset = self._pick("", "", " OFFSET :o")
        present = f"{{present:{distance}}}"
        return (
            f"FROM {source.text} WHERE {where}{present} "
            f"ORDER BY {order}{down}{tie} LIMIT {limit}{offset}"
        ), distance

    def search(self) -> Statement:
        """Nearest rows of one source, spelled in many ways."""
        source = self.source()
        rest, distance = self.top(source)
        items = self._pick(
            source.of("id"), f"{source.of('id')}, {distance}",
            f"{source.of('id')}, {source.of('cat')} AS title, {distance} AS far",
            f"{source.of('id')} + 1, {source.of('price')}",
            f"{source.of('vec')}, {source.of('id')}",
        )  # fmt: skip
        if f"ORDER BY {distance}" in rest and items.endswith("AS far"):
            spelled = self._pick("far", distance, "3")
            rest = rest.replace(f"ORDER BY {distance}", f"ORDER BY {spelled}", 1)
        return Statement(f"{self._with(source)}SELECT {items} {rest}", True)

    def within(self) -> Statement:
        """A range search, plain or aggregated."""
        source = self.source()
        distance = self.distance(source.of("vec"))
        compare = self._pick(
            f"{distance} < :r", f"{distance} <= :r", f":r > {distance}",
            f"{distance} BETWEEN 0.5 AND :r",
        )  # fmt: skip
        i, c = source.of("id"), source.of("cat")
        items, group = self.chance.choice(
            [(f"{i}, {distance}", ""), (f"count(*), min({distance}), sum({i})", ""),
             (f"{c}, count({distance}), max({source.of('price')})", f" GROUP BY {c}"),
             (f"DISTINCT {c}", "")]
        )  # fmt: skip
        where = f"{compare} AND {self.filter(source)}"
        text = f"{self._with(source)}SELECT {items} FROM {source.text} WHERE {where}{group}"
        is_split = items == f"{i}, {distance}" and not source.ctes
        return Statement(text, False, f"{source.of('price')} < 4" if is_split else None)

    def join(self) -> Statement:
        """A LATERAL search for each row of another table."""
        source = self.source(1)
        left = self.chance.choice(
            [("asked a", "a.id", "a.v", 0), ("docs a", "a.id", "a.vec", 1),
             ("(SELECT id + 1 AS id, v FROM asked WHERE id > 0) a", "a.id", "a.v", 0),
             ("cheap a", "a.id", "a.vec", 1)]
        )  # fmt: skip
        table, key, vec, is_docs = left
        kind = self.chance.choice(list(OPERATORS))
        distance = f"{{{kind}:{source.of('vec')}|{vec}}}"
        on = [self.filter(source)] if self.chance.random() < 0.5 else []
        if self.chance.random() < 0.5:
            own = [f"{source.of('id')} <> {key}", f"{source.of('id')} > {key}"]
            own += [f"{source.of('cat')} = a.cat"] if is_docs else []
            on.append(self.chance.choice(own))
        where = " AND ".join([*on, f"{{present:{distance}}}"])
        tie = f", {source.of('id')}" if source.unique else (
            f", {source.of('id')}, {source.of('cat')}, {source.of('price')}"
        )  # fmt: skip
        inner = (
            f"SELECT {source.of('id')} AS found, {distance} AS far FROM {source.text} "
            f"WHERE {where} ORDER BY {self._pick(distance, 'far')}{tie} "
            f"LIMIT {self._pick('1', '2', ':k')}{self._pick('', ' OFFSET 1')}"
        )
        join = self._pick(
            f"CROSS JOIN LATERAL ({inner}) x", f", LATERAL ({inner}) x",
            f"LEFT JOIN LATERAL ({inner}) x ON TRUE",
        )  # fmt: skip
        after = self._pick("", "", f" WHERE {key} < 4", " WHERE x.far < 2")
        items, group = self.chance.choice(
            [
                (f"{key}, x.found, x.far", ""),
                (f"{key}, count(x.found), min(x.far)", f" GROUP BY {key}"),
            ]
        )
        return Statement(
            f"{self._with(source)}SELECT {items} FROM {table} {join}{after}{group}", False
        )

    def groups(self) -> Statement:
        """The nearest rows of each group."""
        source = self.source()
        i, c = source.of("id"), source.of("cat")
        distance = self.distance(source.of("vec"))
        order = f"{distance} NULLS LAST, {i}, {source.of('price')}"
        window = f"row_number() OVER (PARTITION BY {c} ORDER BY {order})"
        text = self._pick(
            f"SELECT {i} FROM {source.text} WHERE {self.filter(source)} QUALIFY {window} <= 2",
            f"SELECT s.i FROM (SELECT {i} AS i, {window} AS r FROM {source.text}) s WHERE s.r = 1",
            f"SELECT DISTINCT ON ({c}) {c}, {i} FROM {source.text} WHERE {self.filter(source)} "
            f"ORDER BY {c}, {order}",
            f"SELECT {c}, count(*), min({distance}) FROM {source.text} GROUP BY {c}",
        )
        return Statement(self._with(source) + text, False)

    def united(self) -> Statement:
        """Two searches, as one result."""
        one, two = self.source(1), self.source(1)
        first, second = self.top(one)[0], self.top(two, limit="3")[0]
        how = self._pick("UNION ALL", "UNION", "EXCEPT", "INTERSECT")
        return Statement(
            f"{self._with(one, two)}(SELECT {one.of('id')} {first}) {how} "
            f"(SELECT {two.of('id')} {second})",
            False,
        )

    def wrapped(self) -> Statement:
        """A search inside a statement."""
        source = self.source()
        rest, distance = self.top(source)
        i, c, p = (source.of(name) for name in ("id", "cat", "price"))
        search = f"SELECT {i} AS i, {c} AS c, {p} AS p, {distance} AS d {rest}"
        ctes = self._with(source)
        text = self._pick(
            f"{ctes}SELECT s.c, count(*), sum(s.i), min(s.d) FROM ({search}) s GROUP BY s.c",
            f"{ctes.rstrip() + ', ' if ctes else 'WITH '}m AS ({search}) "
            "SELECT m.i FROM m WHERE m.d > 1",
            f"{ctes}SELECT s.i, a.id FROM ({search}) s LEFT JOIN asked a ON a.id = s.p",
            f"{ctes}SELECT docs.id FROM docs WHERE docs.id IN (SELECT s.i FROM ({search}) s) AND "
            f"{{present:docs.vec}} ORDER BY {{l1:docs.vec|:q2}}, docs.id LIMIT 3",
            f"{ctes}SELECT (SELECT count(*) FROM ({search}) s), (SELECT max(price) FROM docs)",
            f"{ctes}SELECT s.i, row_number() OVER (ORDER BY s.d NULLS LAST, s.i, s.c, s.p) "
            f"FROM ({search}) s",
        )
        return Statement(text, False)

    def beside(self) -> Statement:
        """A search over a join."""
        source = self.source(1)
        distance = self.distance(source.of("vec"))
        i = source.of("id")
        join = self._pick(
            f"{source.text} JOIN asked a ON a.id = {source.of('price')}",
            f"{source.text} LEFT JOIN asked a ON a.id = {source.of('price')}",
            f"asked a, {source.text}", f"asked a JOIN {source.text} ON a.id <> {i}",
            f"asked a LEFT JOIN {source.text} ON a.id = {source.of('price')}",
        )  # fmt: skip
        where = f"{self.filter(source)} AND {{present:{distance}}}"
        ties = [i, "a.id", source.of("cat"), source.of("price")]
        return Statement(
            f"{self._with(source)}SELECT {i}, a.id FROM {join} WHERE {where} "
            f"ORDER BY {distance}, {', '.join(ties)} LIMIT :k{self._pick('', ' OFFSET :o')}",
            True,
        )
