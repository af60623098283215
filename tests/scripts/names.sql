-- Sub-queries whose names could come to mean something else when their FROM clause takes their place:
-- aliases that hide columns, columns that hide tables, tables that hide names of WITH. In the notation of
-- tests/scripts/model.sql; the order of rows is compared by none.

SELECT s.a AS vec, s.i FROM (SELECT id AS i, price AS a, vec AS b FROM docs) s WHERE {present:s.b} ORDER BY
{l2:s.b|:q}, s.i LIMIT 5

SELECT i AS cat, cat AS i FROM (SELECT id AS i, cat, vec FROM docs) s WHERE {present:vec} ORDER BY
{l2:vec|:q}, s.i LIMIT 5

SELECT i AS price, price + 1 AS i FROM (SELECT id AS i, price, vec FROM docs) s WHERE price > 2 AND
{present:vec} ORDER BY {l2:vec|:q}, s.i LIMIT 5

SELECT s.id, (SELECT count(*) FROM docs WHERE docs.id < s.id) FROM (SELECT docs.id, docs.vec FROM docs) s
WHERE {present:s.vec} ORDER BY {l2:s.vec|:q}, s.id LIMIT 4

SELECT d.id FROM docs d WHERE d.id IN (SELECT s.x FROM (SELECT id AS x, vec FROM docs WHERE docs.cat = 'a') s
WHERE s.x <> d.id AND {present:s.vec} ORDER BY {l2:s.vec|:q}, s.x LIMIT 5)

SELECT price FROM (SELECT id AS price, vec FROM docs) s WHERE price < 9 AND {present:vec} ORDER BY
{l2:vec|:q}, price LIMIT 5

SELECT id FROM (SELECT price AS id, id AS price, vec FROM docs) s WHERE id > 3 AND {present:vec} ORDER BY
{l2:vec|:q}, price LIMIT 5

SELECT a.id, s.id FROM asked a JOIN (SELECT id + 1 AS id, vec FROM docs) s ON s.id = a.id WHERE
{present:s.vec} ORDER BY {l2:s.vec|:q}, s.id LIMIT 5

SELECT s.id, v FROM asked a, (SELECT id, vec, cat FROM docs) s WHERE {present:s.vec} ORDER BY {l2:s.vec|:q},
s.id, a.id LIMIT 5

SELECT x.id, y.id FROM (SELECT d.id, d.vec FROM docs d JOIN asked a ON a.id = d.price) x, docs y WHERE y.id =
x.id AND {l2:x.vec|:q} < :r

SELECT x.id, n FROM (SELECT d.id, d.vec, a.id AS n FROM docs d JOIN asked a ON a.id = d.price) x WHERE
{present:x.vec} ORDER BY {l2:x.vec|:q}, x.id, n LIMIT 4

SELECT x.* FROM (SELECT d.id, d.vec, a.* EXCLUDE (id) FROM docs d JOIN asked a ON a.id = d.price) x WHERE
{present:x.vec} ORDER BY {l2:x.vec|:q}, x.id LIMIT 4

WITH docs AS (SELECT id AS i, vec AS e FROM docs WHERE price > 1) SELECT i FROM docs WHERE {present:e} ORDER
BY {l2:e|:q}, i LIMIT 4

WITH a AS (SELECT id AS i, vec AS e FROM docs), docs AS (SELECT i AS id, e AS vec FROM a WHERE i < 30) SELECT
docs.id FROM docs WHERE {present:vec} ORDER BY {l2:vec|:q}, docs.id LIMIT 4

SELECT cat, count(*) FROM (SELECT id, upper(cat) AS cat, vec FROM docs) s WHERE {l2:vec|:q} < :r GROUP BY cat

SELECT upper(cat) AS cat, min({l2:vec|:q}) FROM (SELECT id, cat, vec FROM docs) s GROUP BY upper(cat)

SELECT cat AS c, sum(id) FROM (SELECT id, cat, price AS c, vec FROM docs) s WHERE {l2:vec|:q} < :r GROUP BY
s.cat

SELECT s.c FROM (SELECT id, CASE WHEN price > 3 THEN 'hi' ELSE 'lo' END AS c, vec FROM docs) s WHERE c = 'hi'
AND {present:vec} ORDER BY {l2:vec|:q}, s.id LIMIT 3

SELECT id, far FROM (SELECT id, {l2:vec|:q} AS far, vec FROM docs) s WHERE far > 1 AND {present:vec} ORDER BY
{l1:vec|:q2}, id LIMIT 3

SELECT id, far + 1 AS far FROM (SELECT id, {l2:vec|:q} AS far FROM docs) s WHERE {present:s.far} ORDER BY
s.far, id LIMIT 3

SELECT s.id FROM (SELECT * FROM docs WHERE EXISTS (SELECT 1 FROM asked s WHERE s.id = docs.id)) s WHERE
{present:s.vec} ORDER BY {l2:s.vec|:q}, s.id LIMIT 3

SELECT s.id FROM (SELECT * FROM docs t WHERE t.id IN (SELECT docs.id + t.id - t.id FROM docs WHERE docs.price
> t.price)) s WHERE {present:s.vec} ORDER BY {l2:s.vec|:q}, s.id LIMIT 3

SELECT a.id, x.id, x.p FROM asked a, LATERAL (SELECT s.id, s.p FROM (SELECT id, price AS p, vec FROM docs
WHERE docs.id > 1) s WHERE s.p >= a.id AND {present:s.vec} AND {present:a.v} ORDER BY {l2:s.vec|a.v}, s.id
LIMIT 2) x

SELECT l.k, x.id FROM (SELECT id * 2 AS k, v AS w FROM asked) l LEFT JOIN LATERAL (SELECT d.id FROM docs d
WHERE d.id <> l.k AND {present:d.vec} AND {present:l.w} ORDER BY {l2:d.vec|l.w}, d.id LIMIT 2) x ON TRUE WHERE
l.k < 5

SELECT l.k, count(x.id) FROM (SELECT id, coalesce(price, 0) AS k, vec AS w FROM docs WHERE cat = 'a') l,
LATERAL (SELECT d.id FROM docs d WHERE {present:d.vec} AND {present:l.w} ORDER BY {l2:d.vec|l.w}, d.id LIMIT
2) x GROUP BY l.k

SELECT s.id FROM (SELECT id, vec FROM docs) s LEFT JOIN asked a ON a.id = s.id WHERE {present:s.vec} ORDER BY
{l2:s.vec|:q}, s.id, a.id LIMIT 3

SELECT count(*) FROM (SELECT id, vec FROM docs WHERE price > 2) s FULL JOIN asked a ON a.id = s.id WHERE
{l2:s.vec|:q} < :r OR s.id IS NULL

SELECT id, 1 AS one FROM (SELECT 7 AS seven, id, vec FROM docs) s WHERE seven = 7 AND {present:vec} ORDER BY
{l2:vec|:q}, id LIMIT 3

SELECT * FROM (SELECT id, 7 AS seven, vec FROM docs) s WHERE {present:vec} ORDER BY {l2:vec|:q}, id LIMIT 3

SELECT seven, id FROM (SELECT id, 7 AS seven, vec FROM docs) s WHERE {present:vec} ORDER BY {l2:vec|:q},
seven, id LIMIT 3

SELECT DISTINCT s.c FROM (SELECT cat AS c, vec FROM docs) s WHERE {l2:s.vec|:q} < :r

SELECT id FROM (SELECT id, vec FROM docs ORDER BY price) s WHERE {present:vec} ORDER BY {l2:vec|:q}, id LIMIT
3

SELECT id FROM (SELECT vec, id FROM docs) s(e, id) WHERE {present:e} ORDER BY {l2:e|:q}, id LIMIT 3

WITH s(e, i) AS (SELECT vec, id FROM docs) SELECT i FROM s WHERE {present:e} ORDER BY {l2:e|:q}, i LIMIT 3
