INSERT INTO docs (id, title, vec) VALUES (99, 'x', '[1, 2]'), (:k, DEFAULT, :q) RETURNING id, vec

INSERT INTO docs SELECT id + 100, title, price, cat, vec FROM docs WHERE price < 3

INSERT INTO docs (id, price) VALUES (1, 2) ON CONFLICT (id) DO UPDATE SET price = EXCLUDED.price + docs.price WHERE docs.price > 1 RETURNING *

UPDATE docs AS d SET title = upper(title), vec = vec + :q FROM queries q WHERE q.id = d.id RETURNING d.id

DELETE FROM docs USING queries q WHERE q.id = docs.id AND docs.vec <-> q.v < 2

EXPLAIN ANALYZE SELECT id, vec <-> :q AS d FROM docs WHERE d < 5 ORDER BY d LIMIT 3

SET target_recall = 0.9; SELECT sum(vec), avg(vec) FROM docs GROUP BY cat; SHOW target_recall

CREATE TABLE near AS SELECT id, vec, 1 - (vec <=> :q) AS score FROM docs ORDER BY vec <=> :q LIMIT 5
