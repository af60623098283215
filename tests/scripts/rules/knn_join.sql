SELECT q.id, x.id FROM queries q CROSS JOIN LATERAL (SELECT d.id FROM docs d ORDER BY d.vec <-> q.v LIMIT 5) x
----
DuckDB SELECT q.id, x.id FROM queries AS q CROSS JOIN LATERAL (SELECT d.id FROM docs AS d ORDER BY d.vec <-> q.v LIMIT 5) AS x
  Scan queries (id)
  KnnJoin docs.vec (l2, k = 5) as one batch
    Left q.v of every row of q
      Scan queries (v)

SELECT q.id, x.id, x.s FROM queries q, LATERAL (SELECT d.id, d.vec <=> q.v AS s FROM docs d WHERE d.price < 3 ORDER BY s LIMIT 5) x WHERE q.id < 10
----
DuckDB SELECT q.id, x.id, x.s FROM queries AS q, LATERAL (SELECT d.id, d.vec <=> q.v AS s FROM docs AS d WHERE d.price < 3 ORDER BY s LIMIT 5) AS x WHERE q.id < 10
  Scan queries (id)
  KnnJoin docs.vec (cosine, k = 5) as one batch
    Filter d.price < 3
      Scan docs (price)
    Left q.id < 10
      Scan queries (id, v)

SELECT q.id, x.id FROM queries q LEFT JOIN LATERAL (SELECT d.id FROM docs d ORDER BY d.vec <-> q.v LIMIT 5 OFFSET 1) x ON true
----
DuckDB SELECT q.id, x.id FROM queries AS q LEFT JOIN LATERAL (SELECT d.id FROM docs AS d ORDER BY d.vec <-> q.v LIMIT 5 OFFSET 1) AS x ON TRUE
  Scan queries (id)
  KnnJoin docs.vec (l2, k = 5 + 1) as one batch
    Left q.v of every row of q
      Scan queries (v)

SELECT a.id, x.id FROM docs a, LATERAL (SELECT b.id FROM docs b WHERE b.id <> a.id AND b.cat = a.cat AND b.price > 1 ORDER BY b.vec <-> a.vec LIMIT 1) x
----
DuckDB SELECT a.id, x.id FROM docs AS a, LATERAL (SELECT b.id FROM docs AS b WHERE b.id <> a.id AND b.cat = a.cat AND b.price > 1 ORDER BY b.vec <-> a.vec LIMIT 1) AS x
  Scan docs (id, cat)
  KnnJoin docs.vec (l2, k = 1) as one batch and conditions on both sides
    Filter b.price > 1
      Scan docs (price)
    Left a.vec of every row of a
      Scan docs (vec)

WITH w AS (SELECT id, v FROM queries WHERE id > 3) SELECT w.id, x.id FROM w, LATERAL (SELECT d.id FROM docs d ORDER BY d.vec <-> w.v LIMIT 5) x
----
DuckDB WITH w AS (SELECT id, v FROM queries WHERE id > 3) SELECT w.id, x.id FROM w, LATERAL (SELECT d.id FROM docs AS d ORDER BY d.vec <-> w.v LIMIT 5) AS x
  Scan queries (id)
  KnnJoin docs.vec (l2, k = 5) as one batch
    Left id > 3
      Scan queries (id, v)

SELECT w.id, x.id FROM (SELECT id, l2_normalize(v) AS v FROM queries) w, LATERAL (SELECT d.id FROM docs d ORDER BY d.vec <-> w.v LIMIT 5) x
----
DuckDB SELECT w.id, x.id FROM (SELECT id, l2_normalize(v) AS v FROM queries) AS w, LATERAL (SELECT d.id FROM docs AS d ORDER BY d.vec <-> w.v LIMIT 5) AS x
  Scan queries (id)
  KnnJoin docs.vec (l2, k = 5) as one batch
    Left (l2_normalize("w".v)) of every row of w
      Scan queries (v)

SELECT q.id, (SELECT d.id FROM docs d ORDER BY d.vec <-> q.v LIMIT 1) FROM queries q
----
DuckDB SELECT q.id, (SELECT d.id FROM docs AS d ORDER BY d.vec <-> q.v LIMIT 1) FROM queries AS q
  Scan queries (id)
  KnnJoin docs.vec (l2, k = 1) as one batch
    Left q.v of every row of q
      Scan queries (v)

SELECT q.id, x.n FROM queries q, LATERAL (SELECT avg(s.price) AS n FROM (SELECT d.price FROM docs d ORDER BY d.vec <-> q.v LIMIT 5) s) x
----
DuckDB SELECT q.id, x.n FROM queries AS q, LATERAL (SELECT avg(s.price) AS n FROM (SELECT d.price FROM docs AS d ORDER BY d.vec <-> q.v LIMIT 5) AS s) AS x
  Scan queries (id)
  KnnJoin docs.vec (l2, k = 5) as one batch
    Left q.v of every row of q
      Scan queries (v)

SELECT q.id, x.id FROM queries q, LATERAL (SELECT d.id FROM docs d ORDER BY d.vec <-> q.v, d.title LIMIT 5) x
----
DuckDB SELECT q.id, x.id FROM queries AS q, LATERAL (SELECT d.id FROM docs AS d ORDER BY d.vec <-> q.v, d.title LIMIT 5) AS x
  Scan queries (id, v)
  Scan docs (id, title, vec)
Note: d.vec <-> q.v: not batched, because further sort keys than the primary key decide between equal distances; computed exactly for every pair of rows

SELECT q.id, x.id FROM queries q, docs e, LATERAL (SELECT d.id FROM docs d WHERE d.id > e.id ORDER BY d.vec <-> q.v LIMIT 5) x
----
DuckDB SELECT q.id, x.id FROM queries AS q, docs AS e, LATERAL (SELECT d.id FROM docs AS d WHERE d.id > e.id ORDER BY d.vec <-> q.v LIMIT 5) AS x
  Scan queries (id, v)
  Scan docs (id)
  Scan docs (id, vec)
Note: d.vec <-> q.v: not batched, because WHERE names more than the two sides of the join; computed exactly for every pair of rows

SELECT g.id, g.neighbour FROM knn_graph(docs, vec, 5, 'cosine') g WHERE g.distance < 0.1
----
DuckDB SELECT g.id, g.neighbour FROM knn_graph(docs, vec, 5, 'cosine') AS g WHERE g.distance < 0.1
  Scan docs (id)
  KnnJoin docs.vec (cosine, k = 5) as one batch and conditions on both sides
    Left a."vec" of every row of a
      Scan docs (vec)

SELECT count(*) FROM docs d JOIN knn_graph(docs, vec, :k) ON knn_graph.id = d.id
----
DuckDB SELECT count(*) FROM docs AS d JOIN knn_graph(docs, vec, :k) ON knn_graph.id = d.id
  Scan docs (id)
  Scan docs (id)
  KnnJoin docs.vec (l2, k = :k) as one batch and conditions on both sides
    Left a."vec" of every row of a
      Scan docs (vec)
