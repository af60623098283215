SELECT id, vec <-> :q FROM docs
----
DuckDB SELECT id, vec <-> :q FROM docs
  Scan docs (id) computing vec <-> :q

SELECT id, vec <-> :q, vec <=> :q FROM docs WHERE price < 3 AND title LIKE 'a%'
----
DuckDB SELECT id, vec <-> :q, vec <=> :q FROM docs WHERE price < 3 AND title LIKE 'a%'
  Scan docs (id) computing vec <-> :q, vec <=> :q
    Filter price < 3 AND title LIKE 'a%'
      Scan docs (title, price)

SELECT avg(vec <-> :q) FROM docs WHERE cat = 'a'
----
DuckDB SELECT avg(vec <-> :q) FROM docs WHERE cat = 'a'
  Scan docs () computing vec <-> :q
    Filter cat = 'a'
      Scan docs (cat)

SELECT id FROM docs WHERE vec <-> :q > 1 ORDER BY vec <-> :q
----
DuckDB SELECT id FROM docs WHERE vec <-> :q > 1 ORDER BY vec <-> :q
  Scan docs (id) computing vec <-> :q
Note: vec <-> :q: no LIMIT, so it is computed exactly for every row

SELECT vec <-> :q, count(*) FROM docs GROUP BY vec <-> :q
----
DuckDB SELECT vec <-> :q, count(*) FROM docs GROUP BY vec <-> :q
  Scan docs (vec)

SELECT avg(vec), vec + '[1, 2]' FROM docs GROUP BY vec
----
DuckDB SELECT avg(vec), vec + '[1, 2]' FROM docs GROUP BY vec
  Scan docs (vec)
