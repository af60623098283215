SELECT id FROM docs ORDER BY vec::halfvec(2) <-> :q LIMIT 5
----
Project (id) without DuckDB
  VectorSearch CAST(vec AS halfvec(2)) <-> :q (l2, k = 5) by index half

SELECT id, halved.vec::halfvec(2) <-> :q AS d FROM docs AS halved WHERE price < 3 ORDER BY d LIMIT 5
----
Project (id, d) without DuckDB
  VectorSearch CAST(halved.vec AS halfvec(2)) <-> :q (l2, k = 5) by index half
    Filter price < 3
      Scan docs (price)

SELECT id FROM docs ORDER BY CAST(vec AS HALFVEC(2)) <-> :q::halfvec(2) LIMIT 5
----
Project (id) without DuckDB
  VectorSearch CAST(vec AS HALFVEC(2)) <-> (CAST($q AS halfvec(2))) (l2, k = 5) by index half
    QueryVector CAST($q AS halfvec(2))

SELECT id FROM docs ORDER BY l2_distance(:q, vec::halfvec(2)) LIMIT 5
----
Project (id) without DuckDB
  VectorSearch CAST(vec AS halfvec(2)) <-> :q (l2, k = 5) by index half

SELECT id FROM docs ORDER BY vec::halfvec(2) <=> :q LIMIT 5
----
DuckDB SELECT id FROM docs ORDER BY CAST(vec AS halfvec(2)) <=> :q LIMIT 5
  Scan docs (id, vec)
Note: CAST(vec AS halfvec(2)) <=> :q: no index is over this expression and compares by cosine, so it is computed exactly for every row

SELECT id FROM docs ORDER BY subvector(vec, 1, 1)::vector(1) <=> '[1]' LIMIT 5
----
Project (id) without DuckDB
  VectorSearch CAST(subvector(vec, 1, 1) AS VECTOR(1)) <=> a vector of 1 dimensions (cosine, k = 5) by index first

SELECT id FROM docs ORDER BY subvector(vec, 2, 1)::vector(1) <=> '[1]' LIMIT 5
----
DuckDB SELECT id FROM docs ORDER BY CAST(subvector(vec, 2, 1) AS VECTOR(1)) <=> '[1]' LIMIT 5
  Scan docs (id, vec)
Note: CAST(subvector(vec, 2, 1) AS VECTOR(1)) <=> '[1]': no index is over this expression and compares by cosine, so it is computed exactly for every row

SELECT id FROM docs ORDER BY vec::halfvec(2) <-> :q, title LIMIT 5
----
DuckDB SELECT id FROM docs ORDER BY CAST(vec AS halfvec(2)) <-> :q, title LIMIT 5
  Scan docs (id, title, vec)
Note: CAST(vec AS halfvec(2)) <-> :q: not pushed down, because further sort keys than the primary key decide between equal distances; computed exactly for every row

SELECT id FROM (SELECT * FROM docs ORDER BY vec::halfvec(2) <-> :q LIMIT 20) ORDER BY vec <-> :q LIMIT 5
----
DuckDB SELECT id FROM (SELECT * FROM docs ORDER BY CAST(vec AS halfvec(2)) <-> :q LIMIT 20) ORDER BY vec <-> :q LIMIT 5
  VectorSearch CAST(vec AS halfvec(2)) <-> :q (l2, k = 20) by index half

SELECT d.id, q.id FROM docs d JOIN queries q ON q.id = d.id ORDER BY d.vec::halfvec(2) <-> :q LIMIT 5
----
DuckDB SELECT d.id, q.id FROM docs AS d JOIN queries AS q ON q.id = d.id ORDER BY CAST(d.vec AS halfvec(2)) <-> :q LIMIT 5
  VectorSearch CAST(d.vec AS halfvec(2)) <-> :q (l2, k = 5, more until the join gives as many) by index half
  Scan queries (id)

SELECT id FROM docs WHERE cat = 'x' ORDER BY vec <-> :q LIMIT 5
----
Project (id) without DuckDB
  VectorSearch docs.vec <-> :q (l2, k = 5) by index of_x
    Filter cat = 'x'
      Scan docs (cat)

SELECT id FROM docs WHERE 'x' = cat AND price < 3 ORDER BY vec <-> :q LIMIT 5
----
Project (id) without DuckDB
  VectorSearch docs.vec <-> :q (l2, k = 5) by index of_x
    Filter 'x' = cat AND price < 3
      Scan docs (price, cat)

SELECT id FROM docs WHERE cat = :c ORDER BY vec <-> :q LIMIT 5
----
Project (id) without DuckDB
  VectorSearch docs.vec <-> :q (l2, k = 5) by index of_x (if its condition follows from the parameters)
    Filter cat = :c
      Scan docs (cat)

SELECT id FROM docs WHERE cat = 'y' ORDER BY vec <-> :q LIMIT 5
----
Project (id) without DuckDB
  VectorSearch docs.vec <-> :q (l2, k = 5)
    Filter cat = 'y'
      Scan docs (cat)
Note: index of_x is not used: WHERE doesn't imply its condition cat = 'x' AND vec IS NOT NULL

SELECT id FROM docs WHERE price = 7 ORDER BY vec <+> :q LIMIT 5
----
Project (id) without DuckDB
  VectorSearch docs.vec <+> :q (l1, k = 5) by index dear
    Filter price = 7
      Scan docs (price)

SELECT id FROM docs WHERE price = 4 ORDER BY vec <+> :q LIMIT 5
----
Project (id) without DuckDB
  VectorSearch docs.vec <+> :q (l1, k = 5)
    Filter price = 4
      Scan docs (price)
Note: index dear is not used: WHERE doesn't imply its condition price > 5

SELECT id FROM docs ORDER BY vec <+> :q LIMIT 5
----
Project (id) without DuckDB
  VectorSearch docs.vec <+> :q (l1, k = 5)
Note: index dear is not used: WHERE doesn't imply its condition price > 5

SELECT id FROM docs WHERE price > 5 AND cat = 'x' ORDER BY subvector(vec, 2, 1) <-> '[1]' LIMIT 5
----
Project (id) without DuckDB
  VectorSearch subvector(vec, 2, 1) <-> a vector of 1 dimensions (l2, k = 5) by index second
    Filter price > 5 AND cat = 'x'
      Scan docs (price, cat)

SELECT id FROM docs ORDER BY subvector(vec, 2, 1) <-> '[1]' LIMIT 5
----
Project (id) without DuckDB
  VectorSearch subvector(vec, 2, 1) <-> a vector of 1 dimensions (l2, k = 5)
Note: index second is not used: WHERE doesn't imply its condition cat = 'x'

SELECT * FROM (SELECT * FROM docs ORDER BY binary_quantize(vec)::bit(2) <~> binary_quantize('[1,-2]') LIMIT 20) ORDER BY vec <=> '[1,-2]' LIMIT 5
----
DuckDB SELECT * FROM (SELECT * FROM docs ORDER BY CAST(binary_quantize(vec) AS BIT(2)) <~> binary_quantize('[1,-2]') LIMIT 20) ORDER BY vec <=> '[1,-2]' LIMIT 5
  VectorSearch CAST(binary_quantize(vec) AS BIT(2)) <~> a vector of 2 dimensions (hamming, k = 20) by index bits

SELECT id, binary_quantize(vec) <~> B'10' AS d FROM docs ORDER BY d LIMIT 5
----
Project (id, d) without DuckDB
  VectorSearch binary_quantize(vec) <~> a vector of 2 dimensions (hamming, k = 5) by index bits

SELECT id FROM docs WHERE price < 3 ORDER BY hamming_distance(:q, binary_quantize(vec)) LIMIT 5
----
Project (id) without DuckDB
  VectorSearch binary_quantize(vec) <~> :q (hamming, k = 5) by index bits
    Filter price < 3
      Scan docs (price)

SELECT id FROM docs ORDER BY binary_quantize(vec) <%> '10' LIMIT 5
----
DuckDB SELECT id FROM docs ORDER BY binary_quantize(vec) <%> '10' LIMIT 5
  Scan docs (id, vec)
Note: binary_quantize(vec) <%> '10': bit strings, computed exactly for every row

SELECT id FROM docs ORDER BY binary_quantize(vec)::bit(3) <~> B'101' LIMIT 5
----
DuckDB SELECT id FROM docs ORDER BY CAST(binary_quantize(vec) AS BIT(3)) <~> (CAST('101' AS BIT)) LIMIT 5
  Scan docs (id, vec)
Note: CAST(binary_quantize(vec) AS BIT(3)) <~> (CAST('101' AS BIT)): bit strings, computed exactly for every row
