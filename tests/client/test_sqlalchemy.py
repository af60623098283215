"""The SQLAlchemy dialect: tables, objects, vectors, reflection, pandas; over HTTP and here."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.engine import make_url

from nearql.client.alchemy.reflection import type_of
from nearql.sqlalchemy import Bit, HalfVector, NearQLDialect, Vector
from support.server_process import ServerProcess


class Base(orm.DeclarativeBase):
    """The tables of these tests."""


class Doc(Base):
    """A row with most types that there are."""

    __tablename__ = "docs"
    id: orm.Mapped[int] = orm.mapped_column(sa.BigInteger, primary_key=True)
    title: orm.Mapped[str] = orm.mapped_column(sa.String(40), server_default="none")
    price: orm.Mapped[Decimal | None] = orm.mapped_column(sa.Numeric(10, 2))
    meta: orm.Mapped[Any] = orm.mapped_column(sa.JSON, nullable=True)
    at: orm.Mapped[dt.datetime | None]
    day: orm.Mapped[dt.date | None]
    code: orm.Mapped[uuid.UUID | None]
    tags: orm.Mapped[list[str] | None] = orm.mapped_column(ARRAY(sa.String))
    ok: orm.Mapped[bool | None]
    raw: orm.Mapped[bytes | None]
    vec: orm.Mapped[Any] = orm.mapped_column(Vector(3), nullable=True)
    half: orm.Mapped[Any] = orm.mapped_column(HalfVector(2), nullable=True)
    bits: orm.Mapped[str | None] = orm.mapped_column(Bit(4))
    __table_args__ = (
        sa.Index(
            "docs_near", "vec", postgresql_using="hnsw", postgresql_with={"m": 16},
            postgresql_ops={"vec": "vector_cosine_ops"},
        ),
    )  # fmt: skip


class Fixed(Base):
    """A key that is given, not numbered."""

    __tablename__ = "fixed"
    name: orm.Mapped[str] = orm.mapped_column(primary_key=True)
    n: orm.Mapped[int]


@pytest.fixture(scope="module", params=("http", "embedded"))
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[sa.Engine]:
    folder = tmp_path_factory.mktemp("node") / "data"
    if request.param == "embedded":
        made = sa.create_engine(f"nearql:///{folder}")
        yield made
        made.dispose()
        return
    with ServerProcess(folder) as server:
        made = sa.create_engine(server.url.replace("http://", "nearql://"))
        yield made
        made.dispose()


@pytest.fixture
def session(engine: sa.Engine) -> Iterator[orm.Session]:
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    Base.metadata.create_all(engine)  # finds them
    with orm.Session(engine) as opened:
        yield opened


WHOLE: dict[str, Any] = {
    "title": "it's",
    "price": Decimal("1.25"),
    "meta": {"x": [1, None]},
    "at": dt.datetime(2026, 1, 2, 3, 4, 5, 678),  # noqa: DTZ001 - TIMESTAMP has no zone
    "day": dt.date(2026, 1, 2),
    "code": uuid.UUID(int=7),
    "tags": ["a", "b"],
    "ok": True,
    "raw": b"\x00\xff",
}


def test_objects_come_back_as_they_were(session: orm.Session) -> None:
    made = Doc(**WHOLE, vec=[1, 0.5, 0], half=np.array([1, 2.0]))
    session.add(made)
    session.commit()
    assert made.id == 1
    session.expunge_all()
    found = session.get_one(Doc, 1)
    assert {name: getattr(found, name) for name in WHOLE} == WHOLE
    assert found.vec.dtype == np.float32
    assert found.vec.tolist() == [1, 0.5, 0]
    assert found.half.tolist() == [1, 2]


def test_defaults_and_nulls(session: orm.Session) -> None:
    session.add(Doc())
    session.commit()
    found = session.scalars(sa.select(Doc)).one()
    assert (found.title, found.price, found.vec, found.tags) == ("none", None, None, None)


def test_many_rows_get_their_numbers(session: orm.Session) -> None:
    docs = [Doc(title=f"t{i}") for i in range(30)]
    session.add_all(docs)
    session.commit()
    assert len({doc.id for doc in docs}) == 30
    titles = {row[0]: row[1] for row in session.execute(sa.select(Doc.id, Doc.title))}
    assert all(titles[doc.id] == doc.title for doc in docs)


def test_change_and_delete(session: orm.Session) -> None:
    session.add_all([Fixed(name="a", n=1), Fixed(name="b", n=2)])
    session.commit()
    session.get_one(Fixed, "a").n = 5
    session.delete(session.get_one(Fixed, "b"))
    session.commit()
    assert session.execute(sa.select(Fixed.name, Fixed.n)).all() == [("a", 5)]
    changed = session.execute(sa.update(Fixed).values(n=Fixed.n + 1).returning(Fixed.n))
    assert changed.all() == [(6,)]
    session.commit()


def test_on_conflict(session: orm.Session) -> None:
    upsert = insert(Fixed).values(name="a", n=1)
    upsert = upsert.on_conflict_do_update(
        index_elements=["name"], set_={"n": upsert.excluded.n + 10}
    )
    session.execute(upsert)
    session.execute(upsert)
    session.execute(insert(Fixed).values(name="a", n=9).on_conflict_do_nothing())
    session.commit()
    assert session.execute(sa.select(Fixed.n)).all() == [(11,)]


@pytest.fixture
def vectors(session: orm.Session) -> orm.Session:
    found = [Doc(title="x", vec=[1, 0, 0]), Doc(title="y", vec=[0, 2, 0]), Doc(title="none")]
    session.add_all(found)
    session.commit()
    return session


@pytest.mark.parametrize(
    ("distance", "expected"),
    [
        ("l2_distance", [("x", 1.0), ("y", 2**0.5)]),
        ("l1_distance", [("x", 1.0), ("y", 2.0)]),
        ("cosine_distance", [("x", 1 - 2**-0.5), ("y", 1 - 2**-0.5)]),
        ("max_inner_product", [("y", -2.0), ("x", -1.0)]),
    ],
)
def test_distances(vectors: orm.Session, distance: str, expected: list[tuple[str, float]]) -> None:
    d = getattr(Doc.vec, distance)(np.array([1, 1, 0])).label("d")
    rows = vectors.execute(sa.select(Doc.title, d).order_by(d, Doc.id).limit(2)).all()
    assert [title for title, _ in rows] == [title for title, _ in expected]
    assert [d for _, d in rows] == pytest.approx([d for _, d in expected], rel=1e-6)


def test_bits(session: orm.Session) -> None:
    session.add_all([Doc(bits="1100"), Doc(bits="0011"), Doc()])
    session.commit()
    d = Doc.bits.hamming_distance("1101").label("d")
    found = session.execute(sa.select(Doc.bits, d).order_by(d).limit(2)).all()
    assert found == [("1100", 1.0), ("0011", 3.0)]
    jaccard = sa.select(Doc.bits.jaccard_distance("1000")).where(Doc.bits == "1100")
    assert session.scalars(jaccard).all() == [0.5]


def test_a_search_is_pushed_down(vectors: orm.Session) -> None:
    search = sa.select(Doc.id).order_by(Doc.vec.l2_distance([1, 1, 0])).limit(1)
    text = str(search.compile(vectors.get_bind(), compile_kwargs={"literal_binds": True}))
    assert "docs.vec <-> '[1.0,1.0,0.0]'" in text
    plan = vectors.execute(sa.text(f"EXPLAIN {text}")).scalars().all()
    assert any("VectorSearch docs.vec" in line for line in plan)


def test_range_and_join(vectors: orm.Session) -> None:
    near = sa.select(Doc.title).where(Doc.vec.l2_distance([1, 0, 0]) < 0.5)
    assert vectors.scalars(near).all() == ["x"]
    other = orm.aliased(Doc)
    pairs = (
        sa.select(Doc.title, other.title, Doc.vec.l2_distance(other.vec))
        .join(other, Doc.id < other.id)
        .where(Doc.vec.is_not(None), other.vec.is_not(None))
    )
    assert vectors.execute(pairs).all() == [("x", "y", pytest.approx(5**0.5))]


def test_a_rollback_after_a_write_is_refused(engine: sa.Engine, session: orm.Session) -> None:
    connection = engine.connect()
    connection.execute(sa.insert(Fixed).values(name="a", n=1))
    with pytest.raises(sa.exc.NotSupportedError, match="rollback can't take it back"):
        connection.close()
    connection.close()
    with engine.connect() as connection:
        assert connection.execute(sa.select(Fixed.n)).all() == [(1,)]
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.insert(Fixed).values(name="b", n=1))
    with engine.connect() as connection:
        connection.execute(sa.select(Fixed.n))
        connection.rollback()


def test_errors_are_sqlalchemys(session: orm.Session) -> None:
    session.add(Fixed(name="a", n=1))
    session.commit()
    session.add(Fixed(name="a", n=2))
    with pytest.raises(sa.exc.IntegrityError, match="exists already"):
        session.commit()
    session.rollback()
    with pytest.raises(sa.exc.ProgrammingError, match="nowhere"):
        session.execute(sa.text("SELECT * FROM nowhere"))
    with pytest.raises(sa.exc.DataError, match="dimensions"):
        session.execute(sa.insert(Doc).values(vec=[1.0]))


def test_reflection(engine: sa.Engine, session: orm.Session) -> None:
    inspector = sa.inspect(engine)
    assert inspector.get_table_names() == ["docs", "fixed"]
    assert inspector.has_table("docs")
    assert not inspector.has_table("nowhere")
    assert inspector.get_pk_constraint("docs")["constrained_columns"] == ["id"]
    (index,) = inspector.get_indexes("docs")
    assert (index["name"], index["column_names"]) == ("docs_near", ["vec"])
    with pytest.raises(sa.exc.NoSuchTableError):
        inspector.get_columns("nowhere")
    metadata = sa.MetaData()
    metadata.reflect(engine)
    docs = metadata.tables["docs"]
    assert isinstance(docs.c.vec.type, Vector)
    assert docs.c.vec.type.dimensions == 3
    assert isinstance(docs.c.half.type, HalfVector)
    assert isinstance(docs.c.meta.type, sa.JSON)
    assert not docs.c.title.nullable


@pytest.mark.parametrize(
    ("sql", "made"),
    [
        ("DECIMAL(10,2)", "NUMERIC(10, 2)"),
        ("BIGINT[]", "BIGINT[]"),
        ("DOUBLE[][]", "DOUBLE PRECISION[][]"),
        ("TIMESTAMP WITH TIME ZONE", "TIMESTAMP WITH TIME ZONE"),
        ("VECTOR(3)", "VECTOR(3)"),
        ("BIT(3)", "BIT(3)"),
        ("BLOB", "BYTEA"),
        ("UUID", "UUID"),
    ],
)
def test_types_that_are_there(sql: str, made: str) -> None:
    assert type_of(sql).compile(NearQLDialect()) == made


def test_intervals_are_timedeltas(engine: sa.Engine) -> None:
    """As of any other database, where no months are in them."""
    spans = sa.Table("spans", sa.MetaData(), sa.Column("span", sa.Interval))
    span = dt.timedelta(days=-2, hours=1, microseconds=5)
    with engine.begin() as connection:
        spans.create(connection)
        connection.execute(spans.insert(), [{"span": span}, {"span": None}])
        found = connection.execute(sa.select(spans.c.span)).scalars().all()
        spans.drop(connection)
    assert sorted(found, key=str) == [span, None]


def test_pandas(engine: sa.Engine, session: orm.Session) -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None], "c": [0.5, 1.5]})
    frame.to_sql("frame", engine, index=False, if_exists="replace")
    frame.to_sql("frame", engine, index=False, if_exists="append")
    found = pd.read_sql("SELECT a, b, c FROM frame ORDER BY a", engine)
    assert found["a"].tolist() == [1, 1, 2, 2]
    assert pd.read_sql_table("frame", engine)["c"].sum() == 4.0
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE frame"))


@pytest.mark.parametrize(
    ("url", "target", "options"),
    [
        ("nearql://host", "http://host:8470", {}),
        ("nearql://:s3cret@host:9?tls=true", "https://host:9", {"token": "s3cret"}),
        ("nearql://[::1]:9", "http://[::1]:9", {}),
        ("nearql:///notes", "notes", {}),
        ("nearql:////srv/notes", "/srv/notes", {}),
        (
            "nearql://h?timeout=2.5&target_recall=0.9", "http://h:8470",
            {"timeout": 2.5, "settings": {"target_recall": "0.9"}},
        ),
    ],
)  # fmt: skip
def test_urls(url: str, target: str, options: dict[str, Any]) -> None:
    assert NearQLDialect().create_connect_args(make_url(url)) == ((target,), options)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nearql://", "Name a host"),
        ("nearql://h?timeout=x", "timeout"),
        ("nearql://h?a=1&a=2", "2 times"),
    ],
)
def test_wrong_urls(url: str, said: str) -> None:
    with pytest.raises(sa.exc.ArgumentError, match=said):
        NearQLDialect().create_connect_args(make_url(url))


def test_settings_of_the_url_are_sent(engine: sa.Engine) -> None:
    url = engine.url.update_query_dict({"statement_timeout_ms": "12345"})
    if url.host is None:
        pytest.skip("the directory is open already")
    other = sa.create_engine(url)
    with other.connect() as connection:
        assert "12345" in str(connection.execute(sa.text("SHOW statement_timeout_ms")).all())
    other.dispose()
