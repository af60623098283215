SELECT DISTINCT cat FROM docs ORDER BY vec <-> :q LIMIT 5
----
DuckDB SELECT DISTINCT cat FROM docs ORDER BY vec <-> :q LIMIT 5
  Scan docs (cat) computing vec <-> :q
Note: vec <-> :q: not pushed down, because DISTINCT merges rows; computed exactly for every row

SELECT cat, min(vec <-> :q) FROM docs GROUP BY cat ORDER BY min(vec <-> :q) LIMIT 5
----
DuckDB SELECT cat, min(vec <-> :q) FROM docs GROUP BY cat ORDER BY min(vec <-> :q) LIMIT 5
  Scan docs (cat) computing vec <-> :q

SELECT id, row_number() OVER (ORDER BY id) FROM docs ORDER BY vec <-> :q LIMIT 5
----
DuckDB SELECT id, row_number() OVER (ORDER BY id) FROM docs ORDER BY vec <-> :q LIMIT 5
  Scan docs (id) computing vec <-> :q
Note: vec <-> :q: not pushed down, because a window function needs every row; computed exactly for every row

SELECT id, unnest([1, 2]) FROM docs ORDER BY vec <-> :q LIMIT 5
----
DuckDB SELECT id, unnest([1, 2]) FROM docs ORDER BY vec <-> :q LIMIT 5
  Scan docs (id) computing vec <-> :q
Note: vec <-> :q: not pushed down, because UNNEST changes the number of rows; computed exactly for every row

SELECT id FROM docs ORDER BY vec <-> :q, title LIMIT 5
----
DuckDB SELECT id FROM docs ORDER BY vec <-> :q, title LIMIT 5
  Scan docs (id, title) computing vec <-> :q
Note: vec <-> :q: not pushed down, because further sort keys than the primary key decide between equal distances; computed exactly for every row

SELECT id FROM docs ORDER BY vec <-> :q DESC LIMIT 5
----
DuckDB SELECT id FROM docs ORDER BY vec <-> :q DESC LIMIT 5
  Scan docs (id) computing vec <-> :q
Note: vec <-> :q: the order isn't that of rising distances, so it is computed exactly for every row

SELECT id FROM docs ORDER BY vec <-> :q
----
DuckDB SELECT id FROM docs ORDER BY vec <-> :q
  Scan docs (id) computing vec <-> :q
Note: vec <-> :q: no LIMIT, so it is computed exactly for every row

SELECT d.id FROM docs d JOIN queries q ON q.id = d.id ORDER BY d.vec <-> :q LIMIT 5
----
DuckDB SELECT d.id FROM docs AS d JOIN queries AS q ON q.id = d.id ORDER BY d.vec <-> :q LIMIT 5
  VectorSearch docs.vec <-> :q (l2, k = 5, more until the join gives as many)
  Scan queries (id)

SELECT d.id FROM queries q LEFT JOIN docs d ON q.id = d.id ORDER BY d.vec <-> :q LIMIT 5
----
DuckDB SELECT d.id FROM queries AS q LEFT JOIN docs AS d ON q.id = d.id ORDER BY d.vec <-> :q LIMIT 5
  Scan queries (id)
  Scan docs (id) computing vec <-> :q
Note: d.vec <-> :q: not pushed down, because the kind of join needs every row of the table; computed exactly for every row

SELECT id FROM docs ORDER BY vec <-> vec LIMIT 5
----
DuckDB SELECT id FROM docs ORDER BY vec <-> vec LIMIT 5
  Scan docs (id, vec)
Note: vec <-> vec: not pushed down, because the other side is no constant; computed exactly for every row

SELECT id, 1 - (vec <=> :q) AS score FROM docs ORDER BY score DESC LIMIT 5
----
DuckDB SELECT id, 1 - (vec <=> :q) AS score FROM docs ORDER BY score DESC LIMIT 5
  Scan docs (id) computing vec <=> :q
Note: vec <=> :q: the order isn't that of rising distances, so it is computed exactly for every row

SELECT COLUMNS('t.*') FROM docs ORDER BY vec <-> :q LIMIT 5
----
DuckDB SELECT COLUMNS('t.*') FROM docs ORDER BY vec <-> :q LIMIT 5
  Scan docs (id, title, price, cat, vec)
Note: vec <-> :q: not pushed down, because COLUMNS(...) could name helper columns; computed exactly for every row

SELECT d.id, q.id FROM docs d, queries q ORDER BY d.vec <-> q.v LIMIT 5
----
DuckDB SELECT d.id, q.id FROM docs AS d, queries AS q ORDER BY d.vec <-> q.v LIMIT 5
  Scan docs (id, vec)
  Scan queries (id, v)
Note: d.vec <-> q.v: not pushed down, because the other side is no constant; computed exactly for every row

SELECT id FROM docs AS d(id, a, b, c, vec) ORDER BY vec <-> :q LIMIT 5
----
DuckDB SELECT id FROM docs AS d(id, a, b, c, vec) ORDER BY vec <-> :q LIMIT 5
  Scan docs (id, title, price, cat, vec)
