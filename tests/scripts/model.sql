-- Statement forms of tests/query/test_against_model.py. A blank line ends each.
-- {D} a distance of docs.vec to :q, {J} of docs.vec to a.v, {F} a filter; {l2:a|b} that distance;
-- {present:a} what NearQL adds by its own rules under LIMIT: a is not NULL.
-- `ordered`: the statement defines the order of its rows.

-- ordered
SELECT id, {D} AS d FROM docs WHERE {F} AND {present:vec} ORDER BY {D}, id LIMIT :k OFFSET :o

-- ordered
SELECT id FROM docs WHERE {F} AND {present:vec} ORDER BY {D}, id LIMIT 4

-- any order
WITH n AS (SELECT *, {D} AS d FROM docs WHERE {F} AND {present:vec} ORDER BY d, id LIMIT :k)
SELECT cat, count(*), sum(d), min(id) FROM n GROUP BY cat

-- any order
SELECT a.id, n.id FROM asked a JOIN (SELECT id, price FROM docs WHERE {F} AND {present:vec}
ORDER BY {D}, id LIMIT :k) n ON n.id = a.id OR n.price = a.id

-- any order
SELECT count(*), sum(id), min(price) FROM docs WHERE {D} < :r AND ({F})

-- ordered
SELECT id, {D} FROM docs WHERE {D} <= :r AND ({F}) ORDER BY {D}, id

-- any order
SELECT cat, count(*), max({D}) FROM docs WHERE {F} GROUP BY cat

-- ordered
SELECT id FROM docs WHERE id IN (SELECT id FROM docs WHERE {present:vec} ORDER BY {D}, id LIMIT
:k) AND ({F}) AND {present:vec} ORDER BY {l1:vec|:q2}, id LIMIT 3

-- any order
(SELECT id, 1 FROM docs WHERE {present:vec} ORDER BY {D}, id LIMIT :k) UNION ALL (SELECT id, 2
FROM docs WHERE ({F}) AND {present:vec} ORDER BY {l2:vec|:q2}, id LIMIT 2)

-- ordered
SELECT id, {D} FROM docs WHERE {F} AND {present:vec} ORDER BY {D} DESC, id LIMIT :k

-- ordered
SELECT id FROM docs WHERE {F} ORDER BY {D} NULLS LAST, id

-- any order
SELECT id, row_number() OVER (PARTITION BY cat ORDER BY {D} NULLS LAST, id) FROM docs WHERE {F}

-- any order
SELECT DISTINCT cat, price FROM docs WHERE {F} AND {D} < :r

-- ordered
SELECT docs.id, a.id FROM docs LEFT JOIN asked a ON a.id = docs.id WHERE {F} AND
{present:docs.vec} ORDER BY {D}, docs.id LIMIT :k

-- ordered
SELECT docs.id, a.id FROM docs JOIN asked a ON a.id <> docs.id WHERE ({F}) AND
{present:docs.vec} ORDER BY {D}, docs.id, a.id LIMIT :k

-- ordered
SELECT id FROM docs WHERE ({F}) AND {D} < {l2:vec|:q2} ORDER BY id

-- any order
SELECT max({D}) - min({D}) FROM docs WHERE {F}

-- any order
SELECT a.id, x.id, x.d FROM asked a CROSS JOIN LATERAL (SELECT docs.id, {J} AS d FROM docs WHERE
({F}) AND {present:docs.vec} AND {present:a.v} ORDER BY {J}, docs.id LIMIT :k) x

-- any order
SELECT a.id, x.id FROM asked a LEFT JOIN LATERAL (SELECT docs.id FROM docs WHERE docs.id <> a.id
AND {present:docs.vec} AND {present:a.v} ORDER BY {J}, docs.id LIMIT :k) x ON TRUE WHERE a.id <
3

-- any order
WITH w AS (SELECT id * 2 AS id, v FROM asked WHERE id > 0) SELECT w.id, x.id FROM w, LATERAL
(SELECT d.id FROM docs d WHERE d.price >= w.id AND {present:d.vec} AND {present:w.v} ORDER BY
{l2:d.vec|w.v}, d.id LIMIT :k OFFSET :o) x

-- any order
SELECT s.id, x.id FROM docs s, LATERAL (SELECT d.id FROM docs d WHERE d.cat = s.cat AND d.id <>
s.id AND {present:d.vec} AND {present:s.vec} ORDER BY {cos:d.vec|s.vec}, d.id LIMIT 2) x

-- any order
SELECT a.id, (SELECT docs.id FROM docs WHERE ({F}) AND {present:docs.vec} AND {present:a.v}
ORDER BY {J}, docs.id LIMIT 1) FROM asked a

-- any order
SELECT a.id, count(*), sum(x.d) FROM asked a, LATERAL (SELECT {J} AS d FROM docs WHERE
{present:docs.vec} AND {present:a.v} ORDER BY {J}, docs.id LIMIT :k) x GROUP BY a.id

-- any order
SELECT a.id, x.n FROM asked a, LATERAL (SELECT count(*) AS n FROM (SELECT docs.id FROM docs WHERE {F}
AND {present:docs.vec} AND {present:a.v} ORDER BY {J}, docs.id LIMIT :k) s WHERE s.id % 2 = 0) x

-- any order
WITH n AS (SELECT id, {D} AS d FROM docs WHERE {F} AND {present:vec} ORDER BY d, id LIMIT :k), m AS
(SELECT id FROM n WHERE d > 1) SELECT docs.id FROM docs WHERE docs.id IN (SELECT id FROM m) AND
{present:vec} ORDER BY {l2:vec|:q2}, docs.id LIMIT 5

-- ordered
SELECT id, 1 - {D} AS score FROM docs WHERE {F} AND {present:vec} ORDER BY score DESC, id LIMIT :k

-- any order
SELECT docs.id, a.id FROM docs RIGHT JOIN asked a ON a.id = docs.id AND {D} < :r

-- any order
SELECT docs.id, a.id FROM asked a LEFT JOIN docs ON a.id = docs.id WHERE {D} < :r

-- any order
SELECT cat, {D}, count(*) FROM docs WHERE {F} GROUP BY cat, {D}

-- any order
SELECT count(*) FILTER (WHERE {D} < 1), count({D}), sum(CASE WHEN {D} < 2 THEN 1 ELSE 0 END) FROM docs
WHERE {F}

-- ordered
SELECT * EXCLUDE (vec) FROM docs WHERE {F} AND {present:vec} ORDER BY {D}, id LIMIT :k

-- ordered
SELECT DISTINCT cat, {D} AS d FROM docs WHERE {F} AND {present:vec} ORDER BY d, cat LIMIT :k

-- ordered
SELECT id, n FROM (SELECT id, vec, count(*) OVER () AS n FROM docs WHERE {F}) s WHERE {present:vec}
ORDER BY {D}, id LIMIT :k

-- any order
SELECT id, {D}, {l2:vec|:q2} FROM docs WHERE {D} < :r AND {l2:vec|:q2} <= 2 AND {F}

-- any order
WITH docs AS (SELECT * FROM docs WHERE price < 6) SELECT id FROM docs WHERE {F} AND {present:vec}
ORDER BY {D}, id LIMIT :k

-- ordered
SELECT s.id FROM (SELECT * FROM docs WHERE price < 6) s WHERE {present:vec} ORDER BY {D}, s.id LIMIT :k

-- any order
SELECT w.i, x.id FROM (VALUES (1, [1,0,1]), (2, NULL), (3, [0,0,0])) w(i, v), LATERAL (SELECT d.id
FROM docs d WHERE {present:d.vec} AND {present:w.v} ORDER BY {l2:d.vec|w.v}, d.id LIMIT 3) x

-- any order
SELECT a.id, e.id, x.id FROM asked a JOIN docs e ON e.id = a.id, LATERAL (SELECT d.id FROM docs d WHERE
{present:d.vec} AND {present:a.v} ORDER BY {l1:d.vec|a.v}, d.id LIMIT 2) x WHERE e.price > 1

-- any order
SELECT a.id, x.id, y.id FROM asked a, LATERAL (SELECT d.id FROM docs d WHERE {present:d.vec} AND
{present:a.v} ORDER BY {l2:d.vec|a.v}, d.id LIMIT 2) x, LATERAL (SELECT d.id FROM docs d WHERE
{present:d.vec} AND {present:a.v} ORDER BY {ip:d.vec|a.v}, d.id LIMIT 1) y

-- any order
SELECT a.id FROM asked a WHERE EXISTS (SELECT 1 FROM docs WHERE docs.id = a.id AND {D} < :r)

-- any order
SELECT a.id, (SELECT min({D}) FROM docs WHERE docs.id > a.id) FROM asked a

-- any order
SELECT a.id FROM asked a WHERE a.id IN (WITH z AS (SELECT id FROM docs WHERE price > 2) SELECT docs.id
FROM docs WHERE docs.id IN (SELECT id FROM z) AND {present:vec} ORDER BY {D}, docs.id LIMIT 5)

-- any order
WITH RECURSIVE t(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM t WHERE n < 3) SELECT t.n, (SELECT count(*)
FROM (SELECT id FROM docs WHERE {F} AND {present:vec} ORDER BY {D}, id LIMIT 7) s WHERE s.id > t.n) FROM t

-- any order
SELECT docs.id, n.id FROM docs NATURAL JOIN (SELECT id, price FROM docs WHERE {present:vec} ORDER BY
{D}, id LIMIT :k) n

-- any order
SELECT id FROM docs JOIN asked USING (id) WHERE {D} < :r

-- ordered
SELECT id, {D} d, d * 2 AS e FROM docs WHERE {F} AND {present:vec} ORDER BY d, id LIMIT :k

-- any order
SELECT count(*) FROM docs x, docs y WHERE {l2:x.vec|y.vec} < 1 AND x.id < y.id

-- any order
SELECT d.cat, min(x.id) FROM docs d, LATERAL (SELECT e.id FROM docs e WHERE e.id > d.id AND
{present:e.vec} AND {present:d.vec} ORDER BY {l2:e.vec|d.vec}, e.id LIMIT 1) x GROUP BY d.cat

-- ordered
SELECT id FROM docs WHERE {D} BETWEEN 1 AND :r AND {F} AND {present:vec} ORDER BY {D}, id LIMIT :k

-- any order
SELECT id FROM docs WHERE {D} BETWEEN 0.5 AND :r AND {F}

-- ordered
SELECT id, 1 - {D}, -({D}) AS x FROM docs WHERE {F} AND {present:vec} ORDER BY {D}, id LIMIT :k

-- ordered
SELECT docs.id, a.v FROM docs JOIN asked a ON a.id = docs.id WHERE {F} AND {present:docs.vec} ORDER BY
{D}, docs.id LIMIT :k OFFSET :o

-- ordered
SELECT docs.id FROM asked a, docs WHERE a.id * 3 = docs.id AND {F} AND {present:docs.vec} ORDER BY {D},
docs.id LIMIT :k

-- ordered
SELECT docs.id, {D} FROM docs JOIN (SELECT cat AS c, count(*) AS n FROM docs GROUP BY cat) s ON s.c = docs.cat
WHERE s.n > 3 AND docs.price < s.n AND {D} < :r AND {present:docs.vec} ORDER BY {D}, docs.id LIMIT :k

-- ordered
WITH w AS (SELECT id * 2 AS id FROM asked) SELECT docs.id FROM docs NATURAL JOIN w WHERE {present:docs.vec}
ORDER BY {D}, docs.id LIMIT :k

-- ordered
SELECT docs.id FROM docs JOIN asked a ON a.id = docs.id AND {l2:docs.vec|:q2} < 3 LEFT JOIN asked b ON
b.id = docs.id + 1 WHERE {present:docs.vec} ORDER BY {D}, docs.id LIMIT :k

-- any order
SELECT a.id, x.id FROM asked a, LATERAL (SELECT docs.id FROM docs JOIN asked b ON b.id = docs.id WHERE
docs.id <> a.id AND {present:docs.vec} ORDER BY {D}, docs.id LIMIT 2) x

-- ordered
SELECT docs.id FROM docs SEMI JOIN asked a ON a.id = docs.id WHERE {present:docs.vec} ORDER BY {D}, docs.id
LIMIT :k

-- ordered
SELECT docs.id FROM docs ANTI JOIN asked a ON a.id = docs.id WHERE {F} AND {present:docs.vec} ORDER BY
{D}, docs.id LIMIT :k
