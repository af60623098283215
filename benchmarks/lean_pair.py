"""Searches a second of NearQL over HTTP beside pgvector over its own protocol, by lean generators.

    python3 dev.py bench lean_pair --data debian:FOLDER [--clients 1,8] [--seconds 5] [--rounds 3]
                                   [--recall 0.95] [--out FOLDER]

Needs `wrk` and `pgbench` (Debian's packages wrk and postgresql-contrib), and what `compare` needs
for pgvector. Both servers are loaded and built as in `compare`, each in its own processes; for each
filter the effort is the least of the system's ladder whose recall@10 over all queries reaches
--recall, and a system that reaches it nowhere gets no rate. Then they are asked in turns, A B B A:

    wrk      POST /v1/sql, the vector as base64 of float32, the settings that give the effort
    pgbench  a prepared statement; the vector comes from a table of the same queries

The generators share the machine with what they ask; nothing is subtracted for that.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ann import algorithms, datasets, metrics
from ann.datasets import EVERY, Condition, Dataset
from provenance import commit, machine

SENT = 200  # queries that the generators go through
LUA = """
local bodies = { %s }
local headers = { ["Content-Type"] = "application/json" }
local at = 0
request = function()
  at = at %% #bodies + 1
  return wrk.format("POST", "/v1/sql", headers, bodies[at])
end
"""
SQL = """\\set n random(0, {last})
SELECT id, name FROM docs {where}ORDER BY vec <=> (SELECT vec FROM asked WHERE n = :n) LIMIT {k};
"""


def tuned(system: Any, data: Dataset, condition: Condition, target: float) -> tuple[Any, float]:
    """The least effort that reaches the target, and its recall; the best one if none does."""
    best: tuple[Any, float] = None, 0.0
    for effort in system.efforts:
        ask = system.asker(effort, condition)
        found = [ask(query) for query in data.queries]
        recall = metrics.recall(data, condition, found, algorithms.K)
        best = max(best, (effort, recall), key=lambda one: one[1])
        if recall >= target:
            break
    return best


def rate_by_wrk(system: Any, data: Dataset, condition: Condition, effort: Any, run: Any) -> float:
    """Answered requests a second."""
    where = f"WHERE {condition.sql()} " if condition.column else ""
    text = f"SELECT id, name FROM docs {where}ORDER BY vec <=> :q LIMIT {algorithms.K}"
    bodies = [
        json.dumps({
            "sql": text,
            "params": {"q": base64.b64encode(query.astype("<f4").tobytes()).decode()},
            "settings": {system.setting: effort},
        })
        for query in data.queries[:SENT]
    ]  # fmt: skip
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(LUA % ",\n".join(f"[==[{body}]==]" for body in bodies))
        script.flush()
        told = subprocess.run(
            ["wrk", "-t1", f"-c{run.clients}", f"-d{run.seconds}", "-s", script.name, system.url],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    if "Non-2xx" in told or "Socket errors" in told:
        sys.exit(told)
    return float(found_in(r"Requests/sec:\s+([\d.]+)", told))


def rate_by_pgbench(
    system: Any, data: Dataset, condition: Condition, effort: Any, run: Any
) -> float:
    """Transactions a second."""
    where = f"WHERE {condition.sql()} " if condition.column else ""
    options = f"-c hnsw.ef_search={effort[0]} -c hnsw.iterative_scan={effort[1]}"
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(SQL.format(where=where, k=algorithms.K, last=SENT - 1))
        script.flush()
        told = subprocess.run(
            ["pgbench", "-n", "-M", "prepared", "-f", script.name, "-j", str(min(2, run.clients)),
             "-c", str(run.clients), "-T", str(run.seconds), system.uri],
            capture_output=True, text=True, check=True, env={**os.environ, "PGOPTIONS": options},
        ).stdout  # fmt: skip
    return float(found_in(r"tps = ([\d.]+)", told))


def found_in(pattern: str, text: str) -> str:
    """The first group; ends the run with the text where there is none."""
    match = re.search(pattern, text)
    if match is None:
        sys.exit(text)
    return match[1]


RATES = {"nearql_http": rate_by_wrk, "pgvector": rate_by_pgbench}


def prepared(name: str, data: Dataset, folder: Path) -> Any:
    """A system, loaded and built."""
    system: Any = algorithms.make(name)
    (folder / name).mkdir()
    system.load(data, folder / name)
    system.build()
    if name == "pgvector":
        system.ask_from_table(data.queries[:SENT])
    return system


def measured(systems: dict[str, Any], data: Dataset, condition: Condition, run: Any) -> Any:
    """Of one filter: efforts, recall, and the rates of each number of clients."""
    efforts = {name: tuned(one, data, condition, run.recall) for name, one in systems.items()}
    figures: dict[str, Any] = {
        name: {"effort": effort, "recall": round(recall, 4)}
        for name, (effort, recall) in efforts.items()
    }
    fair = [name for name, (_, recall) in efforts.items() if recall >= run.recall]
    for clients in run.counts:
        run.clients = clients
        rates: dict[str, list[float]] = {name: [] for name in fair}
        for turn in range(run.rounds):
            for name in fair if turn % 2 == 0 else reversed(fair):
                effort = efforts[name][0]
                rates[name].append(RATES[name](systems[name], data, condition, effort, run))
        for name in fair:
            figures[name][f"qps_{clients}"] = round(statistics.median(rates[name]), 1)
            figures[name][f"spread_{clients}"] = [round(min(rates[name])), round(max(rates[name]))]
        if len(fair) == len(systems):
            medians = [statistics.median(rates[name]) for name in RATES]
            figures[f"ratio_{clients}"] = round(medians[0] / medians[1], 2)
    return figures


def main() -> None:
    """Print and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--clients", default="1,8")
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--recall", type=float, default=0.95)
    parser.add_argument("--filters", help="names, with commas between; default: all")
    parser.add_argument("--out", type=Path)
    run = parser.parse_args()
    run.counts = [int(count) for count in run.clients.split(",")]
    for tool in ("wrk", "pgbench"):
        if shutil.which(tool) is None:
            sys.exit(f"{tool} is not installed.")
    data = datasets.load(run.data, 500)
    wanted = run.filters and run.filters.split(",")
    conditions = [one for one in (EVERY, *data.conditions) if not wanted or one.name in wanted]
    figures: dict[str, Any] = {"machine": machine(), "commit": commit(), "data": data.name}
    figures["load"] = round(os.getloadavg()[0], 1)
    with tempfile.TemporaryDirectory(prefix="nearql-bench-pair") as folder:
        systems = {name: prepared(name, data, Path(folder)) for name in RATES}
        try:
            for condition in conditions:
                figures[condition.name] = measured(systems, data, condition, run)
                print(condition.name, json.dumps(figures[condition.name]), flush=True)
        finally:
            for system in systems.values():
                system.close()
    if run.out:
        run.out.mkdir(parents=True, exist_ok=True)
        path = run.out / f"lean_pair-{data.name}-{commit()}.json"
        path.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
