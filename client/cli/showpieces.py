"""The demo's table and its five statements.

The queries are vectors of rows that are there: the demo has no model that turns a text into one.
"""

from __future__ import annotations

from typing import NamedTuple

CREATE = """CREATE TABLE packages (
    id BIGINT PRIMARY KEY, name TEXT NOT NULL, version TEXT, suite TEXT, section TEXT,
    priority TEXT, architecture TEXT, multi_arch TEXT, source TEXT, maintainer TEXT, homepage TEXT,
    installed_size BIGINT, size BIGINT, n_depends INTEGER, n_recommends INTEGER,
    short_description TEXT, embedding HALFVEC(384))"""


class Showpiece(NamedTuple):
    """A statement, and what it shows."""

    title: str
    sql: str


SHOWPIECES = (
    Showpiece(
        "Nearest to an existing package: the query is a sub-query",
        """\
SELECT name, short_description,
       embedding <=> (SELECT embedding FROM packages WHERE name = 'gnome-chess') AS distance
FROM packages
ORDER BY distance LIMIT 5""",
    ),
    Showpiece(
        "Filter and search: the filter never costs a result",
        """\
SELECT name, section, installed_size AS kib,
       embedding <=> (SELECT embedding FROM packages WHERE name = 'postgresql') AS distance
FROM packages
WHERE section IN ('python', 'perl', 'php') AND installed_size < 500
ORDER BY distance LIMIT 5""",
    ),
    Showpiece(
        "A search in a CTE, joined with an aggregate: where the 100 neighbours of xterm live",
        """\
WITH near AS (
    SELECT section, embedding <=> (SELECT embedding FROM packages WHERE name = 'xterm') AS distance
    FROM packages
    ORDER BY distance LIMIT 100
), sections AS (
    SELECT section, count(*) AS packages FROM packages GROUP BY section
)
SELECT section, count(*) AS near, any_value(s.packages) AS of_packages,
       round(min(distance), 3) AS nearest
FROM near JOIN sections s USING (section)
GROUP BY section
ORDER BY near DESC, section LIMIT 5""",
    ),
    Showpiece(
        "Range search: everything closer than 0.35 to a Go logging library",
        """\
SELECT name, short_description,
       embedding <=> (SELECT embedding FROM packages
                      WHERE name = 'golang-github-juju-loggo-dev') AS distance
FROM packages
WHERE embedding <=> (SELECT embedding FROM packages
                     WHERE name = 'golang-github-juju-loggo-dev') < 0.35
ORDER BY distance""",
    ),
    Showpiece(
        "kNN join: the two nearest neighbours of each of four packages, in one batched search",
        """\
SELECT q.name AS package, n.name AS neighbour, n.distance
FROM packages q
CROSS JOIN LATERAL (
    SELECT name, embedding <=> q.embedding AS distance
    FROM packages p
    WHERE p.id <> q.id
    ORDER BY distance LIMIT 2
) n
WHERE q.name IN ('gnome-chess', 'postgresql', 'vim-runtime', 'xterm')
ORDER BY package, distance""",
    ),
)
