"""A node under a hard memory limit: it loads and answers more than fits, and is never killed."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import nearql
from support.cgroups import is_in_memory, memory_group
from support.server_process import ServerProcess

MIB = 1 << 20
DIMENSIONS = 768
BATCH = 10_000
BATCHES = 36
DATA = BATCH * BATCHES * DIMENSIONS * 4  # 1.03 GiB of vectors
LIMIT = DATA * 3 // 2 + 512 * MIB

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def batch(number: int) -> pa.Table:
    """Random vectors, but for the first element: 100 times the key."""
    random = np.random.default_rng(number)
    vectors = random.standard_normal((BATCH, DIMENSIONS), np.float32)
    keys = np.arange(number * BATCH, (number + 1) * BATCH)
    vectors[:, 0] = 100.0 * keys
    items = pa.array(vectors.reshape(-1))
    return pa.table(
        {
            "id": pa.array(keys),
            "label": pa.array([f"label {key % 1000}" for key in keys.tolist()]),
            "vec": pa.FixedSizeListArray.from_arrays(items, DIMENSIONS),
        }
    )


def query(key: int) -> list[float]:
    return [100.0 * key, *([0.0] * (DIMENSIONS - 1))]


def searches(server: ServerProcess, keys: range, found: dict[int, Any]) -> None:
    for key in keys:
        text = "SELECT id FROM docs ORDER BY vec <-> :q LIMIT 1"
        found[key] = server.rows(text, {"q": query(key)})


def test_a_gigabyte_is_loaded_and_queried_under_a_hard_limit(tmp_path: Path) -> None:
    if is_in_memory(tmp_path):
        pytest.skip("the test's directory is in memory: its files would count")
    with memory_group(LIMIT) as group:
        if isinstance(group, str):
            pytest.skip(group)
        patient = {"NEARQL_LIMITS_STATEMENT_TIMEOUT_MS": "500000"}
        process = ServerProcess(tmp_path / "data", environment=patient, wrapper=group.wrapper)
        process.http.timeout = 500.0
        with process as server:
            server.sql(
                f"CREATE TABLE docs (id BIGINT PRIMARY KEY, label TEXT, vec VECTOR({DIMENSIONS}))"
            )
            with nearql.connect(server.url, timeout=500.0, retries=10) as db:
                for number in range(BATCHES):
                    db.insert("docs", batch(number))
            total = BATCH * BATCHES
            assert server.rows("SELECT count(*) FROM docs") == [[total]]
            found: dict[int, Any] = {}
            ranges = [range(start, total, total // 5) for start in (7, 100_003, 200_001, 350_000)]
            threads = [threading.Thread(target=searches, args=(server, r, found)) for r in ranges]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert found == {key: [[key]] for keys in ranges for key in keys}
            groups = "SELECT label, count(*), min(id) FROM docs GROUP BY label ORDER BY 3 LIMIT 2"
            each = total // 1000
            assert server.rows(groups) == [["label 0", each, 0], ["label 1", each, 1]]
            sums = server.rows("SELECT sum(vec[2]), count(vec) FROM docs WHERE id % 3 = 0")
            assert sums[0][1] == total // 3
            assert server.sql("DELETE FROM docs WHERE id % 2 = 1")["row_count"] == total // 2
            everything = server.post_sql("SELECT * FROM docs")
            assert everything.status_code in (200, 413, 429), everything.text[:300]
            assert server.rows("SELECT count(*) FROM docs") == [[total // 2]]
            assert server.is_ready()
            assert group.kills == 0
            assert server.stop() == 0
