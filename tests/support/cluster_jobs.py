"""Jobs of a cluster of real processes: begun, followed to their end; and where copies are."""

from __future__ import annotations

from typing import Any

from support.cluster_processes import PATIENCE_S, Processes
from support.waiting import wait_for

JOB_S = 3 * PATIENCE_S
OVER = ("done", "failed", "cancelled")


def started(nodes: Processes, action: str, **members: Any) -> str:
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


def job(nodes: Processes, name: str) -> dict[str, Any]:
    """What a node that knows it tells of a job."""
    for node in nodes.running():
        status, found = node.get(f"/v1/jobs/{name}")
        if status == 200:
            return dict(found)
    return {"state": "unknown", "detail": ""}


def ended(nodes: Processes, name: str) -> dict[str, Any]:
    """Wait for a job to be over."""
    wait_for(
        lambda: job(nodes, name)["state"] in OVER,
        f"the end of {job(nodes, name)}", JOB_S,
    )  # fmt: skip
    return job(nodes, name)


def copies(nodes: Processes, table: str) -> set[str]:
    """Where copies of a table's shards are, those that are being made included."""
    for node in nodes.running():
        status, told = node.get("/v1/cluster/shards")
        if status == 200:
            found = [s for s in told["shards"] if s["table"] == table]
            return {copy["node"] for shard in found for copy in shard["copies"]}
    return set()
