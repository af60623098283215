"""How the comparison is run: a process per system, windows in turn, rates only beside recall."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import threading
import time
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from provenance import commit, machine

from ann import algorithms, datasets, metrics
from ann.datasets import EVERY, Condition, Dataset


class Host:
    """A system in this process, told by its parent what to do."""

    def __init__(self, name: str, spec: str, queries: int, folder: str) -> None:
        self.data: Dataset = datasets.load(spec, queries)
        self.system = algorithms.make(name)
        self.folder = Path(folder) / name
        self._conditions = {c.name: c for c in (EVERY, *self.data.conditions)}

    def prepare(self) -> dict[str, Any]:
        """Load and build; seconds, rows a second, bytes on disk."""
        self.folder.mkdir(parents=True)
        begin = time.perf_counter()
        self.system.load(self.data, self.folder)
        loaded = time.perf_counter()
        self.system.build()
        built = time.perf_counter()
        return {
            "version": self.system.version,
            "load_rows_per_s": len(self.data.vectors) / (loaded - begin),
            "durable": self.system.durable,
            "build_s": built - loaded,
            "disk_bytes": metrics.disk_bytes(self.folder),
        }

    def tuned(self, condition: str, target: float) -> dict[str, Any]:
        """The least effort with the recall asked for; else the effort with the best recall."""
        tried = []
        for effort in self.system.efforts:
            tried.append((self._recall(effort, self._conditions[condition]), effort))
            if tried[-1][0] >= target:
                break
        recall, effort = tried[-1] if tried[-1][0] >= target else max(tried, key=lambda t: t[0])
        return {"effort": effort, "recall": recall, "curve": tried}

    def _recall(self, effort: Any, condition: Condition) -> float:
        ask = self.system.asker(effort, condition)
        found = [ask(query) for query in self.data.queries]
        return metrics.recall(self.data, condition, found, algorithms.K)

    def burst(self, condition: str, effort: Any, clients: int, seconds: float) -> dict[str, Any]:
        """Queries a second and latencies of so many clients at once."""
        taken: list[list[float]] = [[] for _ in range(clients)]
        gate = threading.Barrier(clients + 1)
        ends = [0.0]

        def client(number: int) -> None:
            ask = self.system.asker(effort, self._conditions[condition])
            queries = self.data.queries
            at = number * len(queries) // clients
            ask(queries[at])
            gate.wait()
            now = time.perf_counter()
            while now < ends[0]:
                ask(queries[at])
                at = (at + 1) % len(queries)
                before, now = now, time.perf_counter()
                taken[number].append(now - before)

        threads = [threading.Thread(target=client, args=(n,)) for n in range(clients)]
        for thread in threads:
            thread.start()
        ends[0] = time.perf_counter() + seconds + 0.2  # the gate opens a moment later
        gate.wait()
        begin = time.perf_counter()
        ends[0] = begin + seconds
        for thread in threads:
            thread.join()
        every = [seconds for mine in taken for seconds in mine]
        qps = len(every) / (time.perf_counter() - begin)
        return {"qps": qps} | metrics.percentiles(every)

    def updates(self, effort: Any) -> dict[str, Any]:
        """Upsert 10 % of the rows, delete 30 %; rows a second, and recall over what is left."""
        order = np.random.default_rng(3).permutation(len(self.data.vectors))
        some, gone = np.sort(order[: len(order) // 10]), np.sort(order[-3 * len(order) // 10 :])
        try:
            upsert = timed(lambda: self.system.upsert(some))
            delete = timed(lambda: self.system.delete(gone))
        except NotImplementedError as error:
            return {"refused": str(error)}
        ask = self.system.asker(effort, EVERY)
        ghosts = set(gone.tolist())
        shown = sum(len(ghosts.intersection(ask(query))) for query in self.data.queries)
        return {
            "upsert_rows_per_s": len(some) / upsert,
            "delete_rows_per_s": len(gone) / delete,
            "deleted_rows_shown": shown,
        }

    def close(self) -> None:
        """Let go of everything."""
        self.system.close()


def timed(job: Any) -> float:
    """Seconds of a job."""
    begin = time.perf_counter()
    job()
    return time.perf_counter() - begin


def serve(pipe: Connection, name: str, spec: str, queries: int, folder: str) -> None:
    """A host's process: calls in, results or the error's text out."""
    try:
        host = Host(name, spec, queries, folder)
        pipe.send(("ok", None))
        with closing(host):
            while (call := pipe.recv()) is not None:
                method, arguments = call
                pipe.send(("ok", getattr(host, method)(*arguments)))
    except Exception as error:  # noqa: BLE001 - told to the parent, which reports this system as failed
        pipe.send(("failed", f"{type(error).__name__}: {error}"))


class Remote:
    """A host in another process."""

    def __init__(self, name: str, run: argparse.Namespace, folder: str) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        arguments = (theirs, name, run.data, run.queries, folder)
        self._process = context.Process(target=serve, args=arguments)
        self._process.start()
        theirs.close()
        self._answer()

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method of the host."""
        self._pipe.send((method, arguments))
        return self._answer()

    def _answer(self) -> Any:
        state, value = self._pipe.recv()
        if state == "failed":
            raise Failed(value)
        return value

    def end(self) -> None:
        """Close it, whatever state it is in."""
        try:
            self._pipe.send(None)
        except OSError:
            print(f"{self.name}: gone already", file=sys.stderr)
        self._process.join(60)
        self._process.kill()


class Failed(Exception):
    """A system failed; the run goes on without it."""


def main(description: str) -> None:
    """Run, print, write."""
    p = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    p.add_argument("--data", required=True, help="debian:FOLDER, glove:FOLDER, hdf5:FILE, ...")
    p.add_argument("--system", action="append", choices=algorithms.names(), help="default: all")
    p.add_argument("--recall", type=float, default=0.95)
    p.add_argument("--clients", default="1,8")
    p.add_argument("--queries", type=int, default=500)
    p.add_argument("--seconds", type=float, default=3.0, help="of one window")
    p.add_argument("--rounds", type=int, default=5, help="windows of each figure")
    p.add_argument("--quick", action="store_true", help="1 client, 3 windows of 1 s, no updates")
    p.add_argument("--out", type=Path, help="folder for the figures as JSON")
    run = p.parse_args()
    if run.quick:
        run.clients, run.seconds, run.rounds = "1", 1.0, 3
    figures = compare(run)
    report(figures, run)
    if run.out:
        run.out.mkdir(parents=True, exist_ok=True)
        name = f"compare-{run.data.split(':')[0]}-{figures['commit']}.json"
        (run.out / name).write_text(json.dumps(figures, indent=1) + "\n")


def compare(run: argparse.Namespace) -> dict[str, Any]:
    """All figures of all systems."""
    figures: dict[str, Any] = {"machine": machine(), "commit": commit(), "systems": {}}
    names = run.system or algorithms.names()
    conditions = [EVERY.name, *(c.name for c in datasets.load(run.data, 1).conditions)]
    with tempfile.TemporaryDirectory(prefix="nearql-bench-") as folder:
        hosts: list[Remote] = []
        for name in names:
            figures["systems"][name] = mine = {}
            say(f"{name}: load, build, tune")
            try:
                host = Remote(name, run, folder)
                mine |= host.ask("prepare")
                mine["filters"] = {c: host.ask("tuned", c, run.recall) for c in conditions}
                hosts.append(host)
            except Failed as error:
                mine["failed"] = str(error)
                say(f"{name} failed: {error}")
        measure(hosts, run, figures["systems"])
        for host in hosts:
            mine = figures["systems"][host.name]
            if not run.quick:
                attempt(host, mine, "updates", "updates", mine["filters"]["all"]["effort"])
            host.end()
    return figures


def measure(hosts: list[Remote], run: argparse.Namespace, systems: dict[str, Any]) -> None:
    """Windows of all systems in turn, forwards and back; medians with the least and greatest."""
    conditions = systems[hosts[0].name]["filters"] if hosts else {}
    for condition in conditions:
        for clients in map(int, run.clients.split(",")):
            say(f"{condition}, {clients} clients")
            windows: dict[str, list[dict[str, float]]] = {host.name: [] for host in hosts}
            for number in range(run.rounds):
                for host in hosts if number % 2 == 0 else hosts[::-1]:
                    tuned = systems[host.name]["filters"][condition]
                    if tuned["recall"] >= run.recall:
                        asked = (condition, tuned["effort"], clients, run.seconds)
                        windows[host.name].append(host.ask("burst", *asked))
            for name, got in windows.items():
                if got:
                    key = f"clients_{clients}"
                    systems[name]["filters"][condition][key] = summary(got)


def attempt(host: Remote, mine: dict[str, Any], key: str, method: str, *arguments: Any) -> None:
    """A call whose failure is a figure, too."""
    try:
        mine[key] = host.ask(method, *arguments)
    except Failed as error:
        mine[key] = {"failed": str(error)}


def summary(windows: list[dict[str, float]]) -> dict[str, float]:
    """Medians over the windows, and the spread of the rate."""
    rates = [window["qps"] for window in windows]
    out = {key: statistics.median(window[key] for window in windows) for key in windows[0]}
    return out | {"qps_low": min(rates), "qps_high": max(rates)}


def report(figures: dict[str, Any], run: argparse.Namespace) -> None:
    """Markdown tables."""
    print(f"{figures['machine']}; commit {figures['commit']}; recall@10 >= {run.recall}\n")
    for name, mine in figures["systems"].items():
        if "failed" in mine:
            print(f"{name} failed: {mine['failed']}")
            continue
        print(
            f"{name}: {mine['version']}; load {mine['load_rows_per_s']:,.0f} rows/s, index", end=""
        )
        print(f" {mine['build_s']:.1f} s, disk {mine['disk_bytes'] / 1e6:,.0f} MB", end="")
        print(f"; updates {mine['updates']}" if "updates" in mine else "")
    done = {n: s for n, s in figures["systems"].items() if "failed" not in s}
    for clients in map(int, run.clients.split(",")):
        print(f"\nQPS, {clients} clients (recall)\n\n| filter | {' | '.join(done)} |")
        print("|---" * (len(done) + 1) + "|")
        for condition in next(iter(done.values()))["filters"] if done else ():
            cells = [cell(s["filters"][condition], clients) for s in done.values()]
            print(f"| {condition} | {' | '.join(cells)} |")


def cell(mine: dict[str, Any], clients: int) -> str:
    """A rate only beside the recall that was asked for."""
    got = mine.get(f"clients_{clients}")
    return f"{got['qps']:,.0f} ({mine['recall']:.3f})" if got else f"- ({mine['recall']:.3f})"


def say(text: str) -> None:
    """Progress goes to stderr."""
    print(text, file=sys.stderr, flush=True)
