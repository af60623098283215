SELECT id FROM (SELECT * FROM docs WHERE price < 3) s WHERE cat = 'a' ORDER BY vec <-> '[0,0]' LIMIT 3
----
Project (id) without DuckDB
  VectorSearch docs.vec <-> a vector of 2 dimensions (l2, k = 3)
    Filter price < 3 AND cat = 'a'
      Scan docs (price, cat)

SELECT * FROM (SELECT id, vec FROM docs AS d WHERE d.price < 3) AS s ORDER BY s.vec <-> '[0,0]' LIMIT 3
----
Project (id, vec) without DuckDB
  VectorSearch docs.vec <-> a vector of 2 dimensions (l2, k = 3)
    Filter d.price < 3
      Scan docs (price)

WITH a AS (SELECT * FROM docs WHERE price < 3), b AS (SELECT * FROM a WHERE cat = 'x') SELECT id FROM b ORDER BY vec <-> '[0,0]' LIMIT 3
----
Project (id) without DuckDB
  VectorSearch docs.vec <-> a vector of 2 dimensions (l2, k = 3)
    Filter price < 3 AND cat = 'x'
      Scan docs (price, cat)

SELECT id FROM (SELECT * FROM docs ORDER BY price LIMIT 5) s ORDER BY vec <-> '[0,0]' LIMIT 3
----
DuckDB SELECT id FROM (SELECT * FROM docs ORDER BY price LIMIT 5) AS s ORDER BY vec <-> '[0,0]' LIMIT 3
  Scan docs (id, title, price, cat, vec)
Note: vec <-> '[0,0]': not pushed down, because the sub-query s can't be merged: it limits rows; computed exactly for every row

SELECT x FROM (SELECT id AS x, vec FROM docs) s ORDER BY vec <-> '[0,0]' LIMIT 3
----
Project (x) without DuckDB
  VectorSearch docs.vec <-> a vector of 2 dimensions (l2, k = 3)

SELECT title FROM (SELECT id, vec FROM docs) s ORDER BY vec <-> '[0,0]' LIMIT 3
----
DuckDB SELECT title FROM (SELECT id, vec FROM docs) AS s ORDER BY vec <-> '[0,0]' LIMIT 3
  Scan docs (id, title, vec)
Note: vec <-> '[0,0]': not pushed down, because the sub-query s can't be merged: whose column 'title' is can't be told; computed exactly for every row

SELECT id FROM (SELECT * FROM docs WHERE random() < 0.5) s ORDER BY vec <-> '[0,0]' LIMIT 3
----
DuckDB SELECT id FROM (SELECT * FROM docs WHERE random() < 0.5) AS s ORDER BY vec <-> '[0,0]' LIMIT 3
  Scan docs (id, title, price, cat, vec)
Note: vec <-> '[0,0]': not pushed down, because the sub-query s can't be merged: it may answer differently each time; computed exactly for every row
