"""Jobs of a cluster of real processes: begun, followed to their end; where copies are; and a writer
that goes on meanwhile.
"""

from __future__ import annotations

import threading
import uuid
from typing import Any

from support.cluster_processes import PATIENCE_S, Nodes
from support.waiting import wait_for

JOB_S = 3 * PATIENCE_S
OVER = ("done", "failed", "cancelled")


def started(nodes: Nodes, action: str, **members: Any) -> str:
    """Begin a job; its id."""
    told: list[Any] = []

    def done() -> bool:
        for node in nodes.running():
            status, answer = node.request("POST", f"/v1/cluster/{action}", members)
            told.append(answer)
            if status == 200:
                return True
        return False

    wait_for(done, f"{action}: {told[-1:]}", PATIENCE_S)
    return str(told[-1]["job"])


def job(nodes: Nodes, name: str) -> dict[str, Any]:
    """What a node that knows it tells of a job."""
    for node in nodes.running():
        status, found = node.get(f"/v1/jobs/{name}")
        if status == 200:
            return dict(found)
    return {"state": "unknown", "detail": ""}


def ended(nodes: Nodes, name: str) -> dict[str, Any]:
    """Wait for a job to be over."""
    wait_for(
        lambda: job(nodes, name)["state"] in OVER,
        f"the end of {job(nodes, name)}", JOB_S,
    )  # fmt: skip
    return job(nodes, name)


def copies(nodes: Nodes, table: str) -> set[str]:
    """Where copies of a table's shards are, those that are being made included."""
    for node in nodes.running():
        status, told = node.get("/v1/cluster/shards")
        if status == 200:
            found = [s for s in told["shards"] if s["table"] == table]
            return {copy["node"] for shard in found for copy in shard["copies"]}
    return set()


class Writer:
    """Inserts into a table until `stop`; what was answered is in `answered`."""

    def __init__(self, nodes: Nodes, table: str) -> None:
        self._nodes, self._table = nodes, table
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.answered: list[int] = []
        self.errors: list[Any] = []

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def written(self, more: int) -> None:
        """Wait for that many further answers."""
        wanted = len(self.answered) + more
        wait_for(lambda: len(self.answered) >= wanted, "writes go on", PATIENCE_S)

    def _run(self) -> None:
        client, number = uuid.uuid4(), 0
        while not self._stopped.is_set():
            number += 1
            text = f"INSERT INTO {self._table} VALUES ({number}, 'row {number}', '[{number},1]')"
            try:
                self._nodes.write(text, request_id=f"{client}:{number}")
            except AssertionError as error:
                self.errors.append(error)
                return
            self.answered.append(number)
