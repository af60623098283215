SELECT id, vec <-> :q AS d FROM docs WHERE price < $1 ORDER BY vec <=> '[1,2]'::vector(2) LIMIT ?

SELECT * FROM q CROSS JOIN LATERAL (SELECT id FROM docs d ORDER BY d.vec <#> q.vec LIMIT 5) AS n

INSERT INTO docs AS d (id, v) VALUES (1, '[1]'), (2, :v) ON CONFLICT (id) DO UPDATE SET v = EXCLUDED.v WHERE d.id > 3 RETURNING id, v

UPDATE docs AS d SET a = 1, (b, c) = (2, 3) FROM x JOIN y ON true WHERE d.id = x.id RETURNING *

DELETE FROM docs d USING x, y WHERE d.id = x.id RETURNING d.id

CREATE TABLE IF NOT EXISTS t (id bigserial PRIMARY KEY, t TEXT NOT NULL DEFAULT 'x' || 'y', p double precision CHECK (p > 0), ts timestamp with time zone DEFAULT now(), v VECTOR(3), n decimal(10, 2), CONSTRAINT c CHECK (p < 9)) WITH (shards = 4, write_concern = 'majority')

CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON docs USING hnsw (vec vector_l2_ops) WITH (m = 16)

ALTER TABLE docs ADD COLUMN IF NOT EXISTS x INT DEFAULT 5, DROP COLUMN y, RENAME COLUMN a TO b

EXPLAIN (ANALYZE, FORMAT JSON) SELECT 1; SET LOCAL hnsw.ef_search = 100; SHOW TABLES; WAIT 2 TIMEOUT 9
