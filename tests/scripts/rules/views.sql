SELECT id FROM red ORDER BY vec <-> :q LIMIT 3
----
Project (id) without DuckDB
  VectorSearch docs.vec <-> :q (l2, k = 3)
    Filter price < 3
      Scan docs (price)

SELECT number, heading FROM named WHERE heading = 'A' ORDER BY embedding <=> :q LIMIT 3
----
DuckDB SELECT number, heading FROM named WHERE heading = 'A' ORDER BY embedding <=> :q LIMIT 3
  VectorSearch docs.vec <=> :q (cosine, k = 3)
    Filter price < 3 AND heading = 'A'
      Scan docs (title, price)

SELECT * FROM named ORDER BY embedding <-> :q LIMIT 3
----
DuckDB SELECT * FROM named ORDER BY embedding <-> :q LIMIT 3
  VectorSearch docs.vec <-> :q (l2, k = 3)
    Filter price < 3
      Scan docs (price)

SELECT n.number FROM named AS n JOIN queries q ON q.id = n.number ORDER BY n.embedding <-> :q LIMIT 3
----
DuckDB SELECT n.number FROM named AS n JOIN queries AS q ON q.id = n.number ORDER BY n.embedding <-> :q LIMIT 3
  VectorSearch docs.vec <-> :q (l2, k = 3, more until the join gives as many)
    Filter price < 3
      Scan docs (price)
  Scan queries (id)

SELECT id FROM red WHERE vec <-> :q < 2 AND cat = 'a'
----
DuckDB SELECT id FROM red WHERE vec <-> :q < 2 AND cat = 'a'
  RangeSearch docs.vec <-> :q (l2, radius = 2)

SELECT id, name FROM joined ORDER BY vec <-> :q LIMIT 3
----
DuckDB SELECT id, name FROM joined ORDER BY vec <-> :q LIMIT 3
  VectorSearch docs.vec <-> :q (l2, k = 3, more until the join gives as many)
  Scan queries (id)

SELECT id FROM ranked WHERE d < 2 ORDER BY d LIMIT 3
----
DuckDB SELECT id FROM ranked WHERE d < 2 ORDER BY d LIMIT 3
  VectorSearch docs.vec <-> a vector of 2 dimensions (l2, k = 3)

SELECT q.id, n.id FROM queries q CROSS JOIN LATERAL (SELECT id FROM red ORDER BY red.vec <-> q.v LIMIT 2) n
----
DuckDB SELECT q.id, n.id FROM queries AS q CROSS JOIN LATERAL (SELECT id FROM red ORDER BY red.vec <-> q.v LIMIT 2) AS n
  Scan queries (id)
  KnnJoin docs.vec (l2, k = 2) as one batch
    Filter price < 3
      Scan docs (price)
    Left q.v of every row of q
      Scan queries (v)

SELECT a.id, n.id FROM red a, LATERAL (SELECT b.id FROM red b WHERE b.id <> a.id ORDER BY b.vec <-> a.vec LIMIT 1) n
----
DuckDB SELECT a.id, n.id FROM red AS a, LATERAL (SELECT b.id FROM red AS b WHERE b.id <> a.id ORDER BY b.vec <-> a.vec LIMIT 1) AS n
  Scan docs (id, price)
  KnnJoin docs.vec (l2, k = 1) as one batch and conditions on both sides
    Filter price < 3
      Scan docs (price)
    Left price < 3
      Scan docs (price, vec)

WITH docs AS (SELECT 1 AS one) SELECT id FROM red, docs ORDER BY vec <-> :q LIMIT 3
----
DuckDB WITH docs AS (SELECT 1 AS one) SELECT id FROM red, docs ORDER BY vec <-> :q LIMIT 3
  VectorSearch docs.vec <-> :q (l2, k = 3, more until the join gives as many)
    Filter price < 3
      Scan docs (price)

SELECT id FROM few ORDER BY vec <-> :q LIMIT 3
----
DuckDB SELECT id FROM few ORDER BY vec <-> :q LIMIT 3
  Scan docs (id, title, price, cat, vec)
Note: "few"."vec" <-> :q: not pushed down, because the sub-query few can't be merged: it limits rows; computed exactly for every row

SELECT cat, n FROM grouped ORDER BY centre <-> :q LIMIT 3
----
DuckDB SELECT cat, n FROM grouped ORDER BY centre <-> :q LIMIT 3
  Scan docs (cat, vec)
Note: centre <-> :q: not pushed down, because the sub-query grouped can't be merged: it groups rows; computed exactly for every row

INSERT INTO docs (id, vec) SELECT id + 100, vec FROM red ORDER BY vec <-> :q LIMIT 3
----
Insert docs
  DuckDB SELECT id + 100, vec FROM red ORDER BY vec <-> :q LIMIT 3
    VectorSearch docs.vec <-> :q (l2, k = 3)
      Filter price < 3
        Scan docs (price)
