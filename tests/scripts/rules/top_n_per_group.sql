SELECT DISTINCT ON (cat) cat, id FROM docs ORDER BY cat, vec <-> :q
----
DuckDB SELECT DISTINCT ON (cat) cat, id FROM docs ORDER BY cat, vec <-> :q
  Scan docs (id, cat) computing vec <-> :q

SELECT id, cat FROM docs QUALIFY row_number() OVER (PARTITION BY cat ORDER BY vec <-> :q, id) <= 2
----
DuckDB SELECT id, cat FROM docs QUALIFY row_number() OVER (PARTITION BY cat ORDER BY vec <-> :q, id) <= 2
  Scan docs (id, cat) computing vec <-> :q

SELECT id FROM (SELECT id, rank() OVER (PARTITION BY cat ORDER BY vec <-> :q) AS r FROM docs WHERE price < 3) s WHERE r = 1
----
DuckDB SELECT id FROM (SELECT id, rank() OVER (PARTITION BY cat ORDER BY vec <-> :q) AS r FROM docs WHERE price < 3) AS s WHERE r = 1
  Scan docs (id, cat) computing vec <-> :q
    Filter price < 3
      Scan docs (price)

SELECT g.cat, n.id FROM (SELECT DISTINCT cat FROM docs) g, LATERAL (SELECT id FROM docs d WHERE d.cat = g.cat ORDER BY d.vec <-> :q LIMIT 2) n
----
DuckDB SELECT g.cat, n.id FROM (SELECT DISTINCT cat FROM docs) AS g, LATERAL (SELECT id FROM docs AS d WHERE d.cat = g.cat ORDER BY d.vec <-> :q LIMIT 2) AS n
  Scan docs (cat)
  Scan docs (id, cat) computing vec <-> :q
Note: d.vec <-> :q: not pushed down, because WHERE depends on more than this table; computed exactly for every row

SELECT cat, min(vec <-> :q), arg_min(id, vec <-> :q) FROM docs GROUP BY cat
----
DuckDB SELECT cat, min(vec <-> :q), arg_min(id, vec <-> :q) FROM docs GROUP BY cat
  Scan docs (id, cat) computing vec <-> :q

SELECT a.id, n.id FROM docs a, LATERAL (SELECT b.id, b.vec <-> a.vec AS d FROM docs b WHERE b.id > a.id ORDER BY d LIMIT 3) n WHERE n.d < 0.1
----
DuckDB SELECT a.id, n.id FROM docs AS a, LATERAL (SELECT b.id, b.vec <-> a.vec AS d FROM docs AS b WHERE b.id > a.id ORDER BY d LIMIT 3) AS n WHERE n.d < 0.1
  Scan docs (id)
  KnnJoin docs.vec (l2, k = 3) as one batch and conditions on both sides
    Left a.vec of every row of a
      Scan docs (vec)
