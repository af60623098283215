-- Statements of tests/query/test_forms.py, one a line, in the notation of tests/support/model.py;
-- a line that starts with ! leaves the order of its rows open.

SELECT id FROM docs WHERE {present:vec} ORDER BY {l2:vec|:q}, id LIMIT 0
SELECT id FROM docs WHERE {present:vec} ORDER BY {l2:vec|:q}, id LIMIT :k OFFSET 1000
SELECT id, {l2:vec|:q} AS "Abstand" FROM docs WHERE {present:vec} ORDER BY "Abstand", id LIMIT 5
SELECT id AS "select", {l2:vec|:q} AS "from" FROM docs WHERE {present:vec} ORDER BY "from", "select" LIMIT 5
SELECT id, {cos:vec|:zero} FROM docs WHERE {present:vec} ORDER BY {cos:vec|:zero}, id LIMIT 5
SELECT id, {l2:vec|:q} d FROM docs WHERE {present:vec} ORDER BY 2, 1 LIMIT 5
SELECT id, {l2:vec|:q} d FROM docs WHERE {present:vec} ORDER BY 2, id DESC LIMIT 5
SELECT id, {l2:vec|:q} d FROM docs WHERE {present:vec} ORDER BY d DESC NULLS LAST, id LIMIT 5
SELECT id, {l2:vec|:q} d FROM docs WHERE {present:vec} ORDER BY d ASC NULLS LAST, id LIMIT 5
SELECT id, {l2:vec|:q} d FROM docs ORDER BY d ASC NULLS FIRST, id
SELECT id, {l2:vec|:q} d FROM docs ORDER BY d, id
SELECT d.* EXCLUDE (vec) FROM docs d WHERE {present:d.vec} ORDER BY {l2:d.vec|:q}, d.id LIMIT 3
SELECT DISTINCT ON (cat) cat, id, {l2:vec|:q} AS d FROM docs WHERE {present:vec} ORDER BY cat, d, id
SELECT DISTINCT ON (cat) cat, id FROM docs WHERE {present:vec} ORDER BY cat NULLS FIRST, {l2:vec|:q}, id LIMIT 2
SELECT DISTINCT {l2:vec|:q} AS d FROM docs WHERE {present:vec} ORDER BY d LIMIT 3
SELECT cat, id FROM docs WHERE vec IS NOT NULL QUALIFY row_number() OVER (PARTITION BY cat ORDER BY {l2:vec|:q}, id) <= 2 ORDER BY cat, id
SELECT cat, id, rank() OVER (PARTITION BY cat ORDER BY {l2:vec|:q}) AS r FROM docs WHERE vec IS NOT NULL QUALIFY r <= 2 ORDER BY cat, r, id
SELECT cat, id FROM docs WHERE {present:vec} QUALIFY row_number() OVER (PARTITION BY cat ORDER BY {l2:vec|:q}, id) <= 2 ORDER BY {l2:vec|:q}, id LIMIT 4
!(SELECT id, 'l2' AS k FROM docs WHERE {present:vec} ORDER BY {l2:vec|:q}, id LIMIT 3) UNION ALL (SELECT id, 'cos' FROM docs WHERE {present:vec} ORDER BY {cos:vec|:q}, id LIMIT 3)
(SELECT id FROM docs WHERE {present:vec} ORDER BY {l2:vec|:q}, id LIMIT 3) UNION (SELECT id FROM docs WHERE {present:vec} ORDER BY {l2:vec|:q2}, id LIMIT 3) ORDER BY id DESC LIMIT 4
SELECT id, {l2:vec|:q} AS d FROM docs WHERE cat = 'a' UNION ALL SELECT id, {l2:vec|:q} FROM docs WHERE cat = 'b' ORDER BY d NULLS LAST, id LIMIT 6
!SELECT a.id, b.id FROM (SELECT id FROM docs WHERE {present:vec} ORDER BY {l2:vec|:q}, id LIMIT 3) a, (SELECT id FROM docs WHERE {present:vec} ORDER BY {cos:vec|:q2}, id LIMIT 2) b
SELECT id FROM docs WHERE id IN (SELECT id FROM docs WHERE {present:vec} ORDER BY {l2:vec|:q}, id LIMIT 3) AND id NOT IN (SELECT id FROM docs WHERE {present:vec} ORDER BY {l1:vec|:q2}, id LIMIT 3) ORDER BY id
SELECT id FROM docs WHERE {l2:vec|:q} < :r ORDER BY id
SELECT id FROM docs WHERE :r >= {l2:vec|:q} ORDER BY {l2:vec|:q}, id LIMIT 3
SELECT id FROM docs WHERE {l2:vec|:q} BETWEEN 1 AND :r AND {present:vec} ORDER BY {l2:vec|:q}, id LIMIT 3
SELECT id FROM docs WHERE {l2:vec|:q} > 1 AND {l2:vec|:q} <= 2.5 ORDER BY id
SELECT id FROM docs WHERE NOT ({l2:vec|:q} < :r) ORDER BY id
SELECT id FROM docs WHERE {l2:vec|:q} < :r OR cat = 'a' ORDER BY id
SELECT id FROM docs WHERE {ip:vec|:q} < -1 ORDER BY id
SELECT id FROM docs WHERE {ip:vec|:q} < -1 AND {present:vec} ORDER BY {ip:vec|:q}, id LIMIT 3 OFFSET 1
SELECT id FROM docs WHERE {l2:vec|:q} < CAST('Infinity' AS FLOAT) ORDER BY id
SELECT id FROM docs WHERE {l2:vec|:q} < CAST('NaN' AS FLOAT) ORDER BY id
SELECT id FROM docs WHERE {cos:vec|:q} <= CAST('NaN' AS FLOAT) ORDER BY id
SELECT id FROM docs WHERE {l2:vec|:q} < NULL ORDER BY id
SELECT id FROM docs WHERE {l2:vec|:none} < 3 ORDER BY id
SELECT count(*) FROM docs WHERE {l2:vec|:q} < (SELECT avg({l2:vec|:q2}) FROM docs)
SELECT id FROM docs d WHERE {l2:d.vec|:q} < d.price ORDER BY id
SELECT id FROM docs WHERE {l2:vec|(SELECT vec FROM docs WHERE id = 1)} < 2 AND id <> 1 ORDER BY id
SELECT id FROM docs WHERE id <> 1 AND {present:vec} ORDER BY {l2:vec|(SELECT vec FROM docs WHERE id = 1)}, id LIMIT 5
SELECT id FROM docs WHERE FALSE AND {present:{l2:vec|(SELECT vec FROM docs WHERE id = 4)}} ORDER BY {l2:vec|(SELECT vec FROM docs WHERE id = 4)}, id LIMIT 5
SELECT id FROM docs WHERE {present:{l2:vec|(SELECT vec FROM docs WHERE id = 999)}} ORDER BY {l2:vec|(SELECT vec FROM docs WHERE id = 999)}, id LIMIT 5
!SELECT a.id, x.id FROM asked a CROSS JOIN LATERAL (SELECT d.id FROM docs d WHERE {present:{l2:d.vec|a.v}} ORDER BY {l2:d.vec|a.v}, d.id LIMIT 2) x
!SELECT a.id, x.id, x.r FROM asked a CROSS JOIN LATERAL (SELECT d.id, row_number() OVER (ORDER BY {l2:d.vec|a.v}, d.id) AS r FROM docs d WHERE {present:{l2:d.vec|a.v}} ORDER BY {l2:d.vec|a.v}, d.id LIMIT 2) x
!SELECT a.id, (SELECT d.id FROM docs d WHERE {present:{l2:d.vec|a.v}} ORDER BY {l2:d.vec|a.v}, d.id LIMIT 1) FROM asked a
!SELECT a.id, (SELECT min({l2:d.vec|a.v}) FROM docs d) FROM asked a
!SELECT a.id, x.n, x.m FROM asked a CROSS JOIN LATERAL (SELECT count(*) AS n, min({l2:d.vec|a.v}) AS m FROM docs d WHERE {l2:d.vec|a.v} < 2) x
!SELECT a.id, list(x.id ORDER BY x.d, x.id) FROM asked a CROSS JOIN LATERAL (SELECT d.id, {l2:d.vec|a.v} AS d FROM docs d WHERE {present:{l2:d.vec|a.v}} ORDER BY {l2:d.vec|a.v}, d.id LIMIT 3) x GROUP BY a.id
!SELECT a.id, x.id, y.id FROM asked a CROSS JOIN LATERAL (SELECT d.id, d.vec FROM docs d WHERE {present:{l2:d.vec|a.v}} ORDER BY {l2:d.vec|a.v}, d.id LIMIT 2) x CROSS JOIN LATERAL (SELECT e.id FROM docs e WHERE e.id <> x.id AND {present:{l2:e.vec|x.vec}} ORDER BY {l2:e.vec|x.vec}, e.id LIMIT 1) y
!SELECT a.id, x.id FROM asked a JOIN LATERAL (SELECT d.id, d.cat FROM docs d WHERE {present:{l2:d.vec|a.v}} ORDER BY {l2:d.vec|a.v}, d.id LIMIT 3) x ON x.cat = 'a'
!SELECT a.id, x.id FROM asked a LEFT JOIN LATERAL (SELECT d.id, d.cat FROM docs d WHERE {present:{l2:d.vec|a.v}} ORDER BY {l2:d.vec|a.v}, d.id LIMIT 3) x ON x.cat = 'a'
!SELECT a.id, x.id FROM asked a INNER JOIN LATERAL (SELECT d.id FROM docs d WHERE d.price > a.id AND {present:{l2:d.vec|a.v}} ORDER BY {l2:d.vec|a.v}, d.id LIMIT 3) x ON TRUE WHERE a.id > 0
!SELECT a.id, x.id FROM asked a CROSS JOIN LATERAL (SELECT d.id FROM cheap d WHERE {present:{l2:d.vec|a.v}} ORDER BY {l2:d.vec|a.v}, d.id LIMIT 2) x
!SELECT a.id, x.n FROM asked a CROSS JOIN LATERAL (SELECT d.n FROM renamed d WHERE {present:{cos:d.v|a.v}} ORDER BY {cos:d.v|a.v}, d.n LIMIT 2) x
!SELECT a.id, b.id FROM docs a, docs b WHERE a.id < b.id AND {l2:a.vec|b.vec} < 1.1
!SELECT a.id, b.id, {l2:a.vec|b.vec} FROM docs a JOIN docs b ON a.id < b.id WHERE {present:{l2:a.vec|b.vec}} ORDER BY {l2:a.vec|b.vec}, a.id, b.id LIMIT 5
SELECT n FROM renamed WHERE {present:v} ORDER BY {l2:v|:q}, n LIMIT 3
SELECT label, count(*) FROM (SELECT * FROM renamed WHERE {present:v} ORDER BY {l2:v|:q}, n LIMIT 8) GROUP BY label ORDER BY label
WITH t AS (SELECT id, {l2:vec|:q} AS d FROM docs) SELECT id FROM t WHERE {present:d} ORDER BY d, id LIMIT 4
WITH t AS MATERIALIZED (SELECT id, {l2:vec|:q} AS d FROM docs WHERE {present:vec} ORDER BY d, id LIMIT 5) SELECT * FROM t ORDER BY d + 0, id
WITH t AS NOT MATERIALIZED (SELECT id, {l2:vec|:q} AS d FROM docs WHERE {present:vec} ORDER BY d, id LIMIT 5) SELECT * FROM t ORDER BY id
WITH q AS (SELECT v FROM asked WHERE id = 1), t AS (SELECT id FROM docs WHERE {present:vec} ORDER BY {l2:vec|(SELECT v FROM q)}, id LIMIT 4) SELECT t.id, d.cat FROM t JOIN docs d USING (id) ORDER BY t.id
WITH q AS (SELECT v FROM asked WHERE id = 1) SELECT d.id FROM docs d, q WHERE {present:d.vec} ORDER BY {l2:d.vec|q.v}, d.id LIMIT 4
SELECT d.id FROM docs d, asked q WHERE q.id = 1 AND {present:d.vec} ORDER BY {l2:d.vec|q.v}, d.id LIMIT 4
SELECT d.id FROM docs d JOIN asked q ON q.id = d.price WHERE {present:{l2:d.vec|:q}} ORDER BY {l2:d.vec|:q}, d.id, q.id LIMIT 4
SELECT d.id, q.id FROM docs d LEFT JOIN asked q ON q.id = d.price WHERE {present:d.vec} ORDER BY {l2:d.vec|:q}, d.id LIMIT 4 OFFSET 2
SELECT q.id, d.id FROM asked q RIGHT JOIN docs d ON q.id = d.price WHERE {present:d.vec} ORDER BY {l2:d.vec|:q}, d.id LIMIT 4
SELECT q.id, d.id FROM asked q FULL JOIN docs d ON q.id = d.price WHERE {present:d.vec} ORDER BY {l2:d.vec|:q}, d.id LIMIT 4
SELECT d.id FROM docs d SEMI JOIN asked q ON q.id = d.price WHERE {present:d.vec} ORDER BY {l2:d.vec|:q}, d.id LIMIT 4
SELECT d.id FROM docs d ANTI JOIN asked q ON q.id = d.price WHERE {present:d.vec} ORDER BY {l2:d.vec|:q}, d.id LIMIT 4
SELECT d.id FROM docs d WHERE EXISTS (SELECT 1 FROM asked q WHERE q.id = d.price AND {l2:q.v|d.vec} < 3) ORDER BY d.id
SELECT d.id FROM docs d WHERE (SELECT count(*) FROM asked q WHERE {l2:q.v|d.vec} < 2) > 1 ORDER BY d.id
SELECT cat, id FROM docs d WHERE {present:vec} AND price = (SELECT max(price) FROM docs e WHERE e.cat = d.cat) ORDER BY {l2:vec|:q}, id LIMIT 3
SELECT id, CASE WHEN {l2:vec|:q} < 2 THEN 'near' WHEN vec IS NULL THEN 'none' ELSE 'far' END AS c FROM docs ORDER BY id
SELECT cat, avg({l2:vec|:q}), min({cos:vec|:q2}), count({l2:vec|:q}) FILTER (WHERE {l2:vec|:q} < 2) FROM docs GROUP BY cat ORDER BY cat
SELECT {l2:vec|:q} > 2 AS far, count(*) FROM docs GROUP BY 1 ORDER BY 1
SELECT {l2:vec|:q} > 2 AS far, count(*) FROM docs GROUP BY far HAVING count(*) > 3 ORDER BY far
SELECT cat, min({l2:vec|:q}) AS m FROM docs GROUP BY cat ORDER BY m, cat LIMIT 2
SELECT id, lag(id) OVER (ORDER BY {l2:vec|:q}, id) FROM docs WHERE vec IS NOT NULL ORDER BY id
SELECT id, ntile(4) OVER (ORDER BY {l2:vec|:q}, id) AS t FROM docs WHERE {present:vec} ORDER BY {l2:vec|:q}, id LIMIT 6
SELECT id FROM docs WHERE {present:vec} ORDER BY {l2:vec|:q} + 0, id LIMIT 4
SELECT id FROM docs WHERE {present:vec} ORDER BY CAST({l2:vec|:q} AS DOUBLE), id LIMIT 4
SELECT id FROM docs WHERE {present:{l2:vec|:q}} ORDER BY -{l2:vec|:q}, id LIMIT 4
SELECT id FROM docs WHERE {present:vec} ORDER BY {l2:vec|:q} * price, id LIMIT 4
SELECT id FROM docs WHERE {present:vec} ORDER BY {l2:vec|:q} + {l1:vec|:q2}, id LIMIT 4
SELECT id FROM docs WHERE {present:vec} ORDER BY cat, {l2:vec|:q}, id LIMIT 4
SELECT id FROM docs WHERE {present:vec} ORDER BY {l2:vec|:q}, {l1:vec|:q2}, id LIMIT 6
SELECT id FROM docs WHERE {present:vec} ORDER BY {l2:vec|:q}, price DESC NULLS LAST, id LIMIT 6
SELECT id FROM docs WHERE {present:vec} ORDER BY CASE WHEN cat = 'a' THEN {l2:vec|:q} ELSE 100 END, id LIMIT 6
SELECT id FROM docs WHERE {present:vec} ORDER BY (SELECT {l2:vec|:q}), id LIMIT 6
SELECT id, x.d FROM docs, LATERAL (SELECT {l2:docs.vec|:q} AS d) x WHERE {present:x.d} ORDER BY x.d, id LIMIT 4
SELECT * FROM (SELECT id, {l2:vec|:q} AS d FROM docs WHERE vec IS NOT NULL) s WHERE d < 2 ORDER BY d, id
SELECT * FROM (SELECT id, {l2:vec|:q} AS d FROM docs) s WHERE d < 2 AND {present:d} ORDER BY d DESC, id LIMIT 3
SELECT s.id FROM (SELECT id, vec FROM docs ORDER BY id LIMIT 10) s WHERE {present:s.vec} ORDER BY {l2:s.vec|:q}, s.id LIMIT 3
SELECT id FROM (SELECT * FROM docs WHERE cat = 'a' UNION ALL SELECT * FROM docs WHERE cat = 'b') WHERE {present:vec} ORDER BY {l2:vec|:q}, id LIMIT 4
SELECT id FROM docs TABLESAMPLE 100% WHERE {present:vec} ORDER BY {l2:vec|:q}, id LIMIT 4
FROM docs SELECT id WHERE {present:vec} ORDER BY {l2:vec|:q}, id LIMIT 4
SELECT docs.id FROM docs NATURAL JOIN (SELECT id FROM asked) a WHERE {present:docs.vec} ORDER BY {l2:docs.vec|:q}, docs.id LIMIT 4
SELECT id FROM docs JOIN asked USING (id) WHERE {present:{l2:vec|v}} ORDER BY {l2:vec|v}, id LIMIT 4
SELECT id FROM docs JOIN asked USING (id) WHERE {present:vec} ORDER BY {l2:vec|:q}, id LIMIT 4
SELECT id FROM docs WHERE {present:vec} ORDER BY {l2:vec|:q}, id FETCH FIRST 3 ROWS ONLY
SELECT id FROM docs WHERE {present:vec} ORDER BY {l2:vec|:q}, id OFFSET 2 ROWS FETCH NEXT 3 ROWS ONLY
SELECT id FROM docs WHERE {present:vec} ORDER BY {l2:vec|:q}, id LIMIT (SELECT count(*) FROM asked)
SELECT id FROM docs WHERE {present:vec} ORDER BY {l2:vec|:q}, id LIMIT 2 + 2
SELECT id FROM docs WHERE {present:vec} ORDER BY {l2:vec|:q}, id LIMIT :k - 1 OFFSET :o + 1
SELECT id FROM docs WHERE TRUE ORDER BY {l2:vec|:q}, id LIMIT NULL
SELECT id FROM docs WHERE {present:vec} ORDER BY {l2:vec|:q}, id LIMIT 10%
SELECT id, id, {l2:vec|:q} AS id FROM docs WHERE {present:vec} ORDER BY {l2:vec|:q}, docs.id LIMIT 3
SELECT * FROM docs a JOIN docs b ON a.id = b.id WHERE {present:a.vec} ORDER BY {l2:a.vec|:q}, a.id LIMIT 2
SELECT a.id FROM docs a WHERE a.id IN (SELECT b.id FROM docs b WHERE {present:b.vec} AND b.cat = a.cat ORDER BY {l2:b.vec|:q}, b.id LIMIT 1) ORDER BY a.id
SELECT a.cat, (SELECT b.id FROM docs b WHERE {present:b.vec} AND b.cat = a.cat ORDER BY {l2:b.vec|:q}, b.id LIMIT 1) FROM (SELECT DISTINCT cat FROM docs WHERE cat IS NOT NULL) a ORDER BY a.cat
SELECT a.cat, x.id FROM (SELECT DISTINCT cat FROM docs WHERE cat IS NOT NULL) a, LATERAL (SELECT b.id FROM docs b WHERE {present:b.vec} AND b.cat = a.cat ORDER BY {l2:b.vec|:q}, b.id LIMIT 2) x ORDER BY a.cat, x.id
SELECT id FROM docs WHERE vec IN (SELECT v FROM asked) ORDER BY id
SELECT id FROM docs WHERE vec = (SELECT v FROM asked WHERE id = 1) ORDER BY id
SELECT count(DISTINCT vec) FROM docs
SELECT EXISTS (SELECT 1 FROM docs WHERE {l2:vec|:q} < 1)
SELECT (SELECT id FROM docs WHERE {present:vec} ORDER BY {l2:vec|:q}, id LIMIT 1) + 1
WITH RECURSIVE w(n, id) AS (SELECT 0, 1 UNION ALL SELECT n + 1, (SELECT d.id FROM docs d WHERE d.id <> w.id AND {present:d.vec} ORDER BY {l2:d.vec|(SELECT e.vec FROM docs e WHERE e.id = w.id)}, d.id LIMIT 1) FROM w WHERE n < 3) SELECT * FROM w ORDER BY n
SELECT id FROM docs AS "Docs Ä" WHERE {present:"Docs Ä".vec} ORDER BY {l2:"Docs Ä"."vec"|:q}, id LIMIT 3
SELECT id FROM docs ORDER BY {l2:vec|:q} NULLS FIRST, id LIMIT 3
SELECT id FROM main.docs WHERE {present:vec} ORDER BY {l2:vec|:q}, id LIMIT 3
SELECT id FROM docs WHERE {present:vec} GROUP BY id, vec ORDER BY {l2:vec|:q}, id LIMIT 3
SELECT id FROM docs WHERE price > ALL (SELECT price FROM docs WHERE id < 3) AND {present:vec} ORDER BY {l2:vec|:q}, id LIMIT 3
SELECT id FROM docs WHERE (cat, price) IN (SELECT cat, price FROM docs WHERE id < 9) AND {present:vec} ORDER BY {l2:vec|:q}, id LIMIT 3
SELECT id FROM docs WHERE id = ANY([1, 2, 3, 20]) AND {present:vec} ORDER BY {l2:vec|:q}, id LIMIT 3
SELECT {l2:vec|:q} FROM docs WHERE {present:vec} ORDER BY {l2:vec|:q} LIMIT 3
SELECT id FROM docs d WHERE {present:d.vec} ORDER BY {l2:d.vec|:q}, id LIMIT 1 OFFSET 0
SELECT unnest([id, id + 1]) AS u FROM docs WHERE {present:vec} ORDER BY {l2:vec|:q}, id LIMIT 4
SELECT max(d) FROM (SELECT {l2:vec|:q} AS d FROM docs WHERE {present:vec} ORDER BY d LIMIT 5)
SELECT id, row_number() OVER () AS n FROM (SELECT id FROM docs WHERE {present:vec} ORDER BY {l2:vec|:q}, id LIMIT 5)
SELECT id FROM docs WHERE {present:vec} AND cat SIMILAR TO '(a|b)' ORDER BY {l2:vec|:q}, id LIMIT 3
SELECT id FROM docs WHERE {present:vec} AND cat ~ 'a|c' ORDER BY {l2:vec|:q}, id LIMIT 3
SELECT t.id FROM (VALUES (1), (2), (30)) AS t(id) JOIN docs ON docs.id = t.id WHERE {present:docs.vec} ORDER BY {l2:docs.vec|:q}, t.id LIMIT 2
SELECT id FROM docs WHERE {l2:vec|:q} IN (0, 1) ORDER BY id
SELECT id FROM docs WHERE {l2:vec|:q} = {l2:vec|:q2} ORDER BY id
SELECT id FROM docs WHERE {l2:vec|:q} < {l2:vec|:q2} AND {present:vec} ORDER BY {l2:vec|:q2}, id LIMIT 4
SELECT id FROM docs WHERE {l2:vec|:q} IS NULL ORDER BY id
SELECT id FROM docs WHERE isnan({cos:vec|:q}) ORDER BY id
SELECT id FROM docs WHERE {present:vec} AND (SELECT true FROM asked q WHERE q.id = docs.id % 3) ORDER BY {l2:vec|:q}, id LIMIT 3
SELECT id FROM docs WHERE {present:vec} AND (SELECT count(*) > 0 FROM asked) AND (cat = 'a' OR id > 4) ORDER BY {l2:vec|:q}, id LIMIT 3
SELECT id FROM docs WHERE vec IS NOT NULL QUALIFY (SELECT true) AND row_number() OVER (ORDER BY {l2:vec|:q}, id) < 4 ORDER BY {l2:vec|:q}, id
