"""What people do to a cluster in a day, at a modest rate: rows that are written over, deleted and
written again; searches with and without a filter; nearest-neighbour joins; tables that come, change
and go; backups. Beside `chaos_workload`'s writers, and judged like them.

A row's `kind` and vector follow from its key and version, so that every answer can be checked by
itself: the row is one that was written, the distance is right, the order and the filter hold. One
thread writes `docs`, so that it knows each key's version, or the few that it may have.
"""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nearql.server.backup.repository import Repository
from nearql.server.backup.store import DirectoryStore
from support.chaos_workload import HEAL_S, Workload
from support.cluster_jobs import OVER, job
from support.cluster_processes import Process, Processes
from support.waiting import wait_for

KEYS, KINDS, DIMENSIONS, K = 2000, 5, 16, 10
DDL_S, BACKUP_S, JOIN_S = 15.0, 45.0, 4.0
BACKUP_LIMIT_S = 180.0
MISSES = 0.01  # share of searches for a row's own vector that an index may miss
RECALL = 0.95
KEPT_BACKUPS = "3"

Vector = np.ndarray[tuple[int], np.dtype[np.float32]]


def vector_of(key: int, version: int) -> Vector:
    """What a version of a row must hold."""
    seed = np.random.default_rng((key, version))
    return seed.standard_normal(DIMENSIONS).astype(np.float32)


def text_of(vector: Vector) -> str:
    """As a literal."""
    return "'[" + ",".join(repr(float(value)) for value in vector) + "]'"


class MixedLoad(Workload):
    """Threads until `stop`. repository: a directory that backups go to."""

    def __init__(self, nodes: Processes, seed: int, repository: Path, pause_s: float) -> None:
        super().__init__(nodes, seed, pause_s)
        self.repository = repository
        self.counts: Counter[str] = Counter()
        self.dropped: list[str] = []
        self.wrong: list[str] = []
        self._versions: list[int | None] = [None] * KEYS  # as last answered
        self._perhaps: list[set[int | None]] = [set() for _ in range(KEYS)]  # of unknown fate
        work = (self._upsert, self._search, self._join, self._change_tables, self._back_up)
        self._threads += [self._thread(f"{seed}/{run.__name__}", run) for run in work]

    def _thread(self, seed: str, run: Callable[[random.Random], None]) -> threading.Thread:
        """One whose own failure is told, never lost with it."""

        def guarded() -> None:
            try:
                run(random.Random(seed))
            except Exception as error:  # noqa: BLE001  told as a problem of the run
                self._say(f"{run.__name__} ended: {error!r}")

        return threading.Thread(target=guarded, name=run.__name__)

    def prepare(self) -> None:
        """Make the tables and the repository."""
        super().prepare()
        self.repository.mkdir()
        Repository.open_or_make(DirectoryStore(self.repository))
        self.nodes.write(
            f"CREATE TABLE docs (id BIGINT PRIMARY KEY, kind INT, v BIGINT, "
            f"vec VECTOR({DIMENSIONS})) WITH (shards = 2, replicas = 2)"
        )
        self.nodes.write("CREATE INDEX docs_vec ON docs USING hnsw (vec vector_l2_ops)")
        for first in range(0, KEYS, 200):
            keys = range(first, min(first + 200, KEYS))
            self.nodes.write(_insert([(key, 1) for key in keys]), f"{uuid.uuid4()}:1")
            for key in keys:
                self._versions[key] = 1

    def _say(self, problem: str) -> None:
        with self.history.lock:
            self.wrong.append(problem)

    def _count(self, *what: str) -> None:
        with self.history.lock:
            self.counts.update(what)

    def _node(self, chance: random.Random) -> Process:
        return chance.choice(list(self.nodes.nodes.values()))

    # ---- rows that are written over -------------------------------------------------------------

    def _upsert(self, chance: random.Random) -> None:
        client, sent, version = uuid.uuid4(), 0, 1
        while not self._stopped.wait(self._pause_s):
            sent, version = sent + 1, version + 1
            request_id = f"{client}:{sent}"
            if chance.random() < 0.2:
                self._delete_some(chance, request_id)
            else:
                keys = chance.sample(range(KEYS), chance.choice((1, 1, 4, 20)))
                told = self._send(chance, _insert([(key, version) for key in keys]), request_id)
                self._note(told, keys, version)
            if chance.random() < 0.3:
                self._find_one(chance)

    def _delete_some(self, chance: random.Random, request_id: str) -> None:
        keys = chance.sample(range(KEYS), chance.choice((1, 5)))
        listed = ", ".join(map(str, keys))
        told = self._send(chance, f"DELETE FROM docs WHERE id IN ({listed})", request_id)
        self._note(told, keys, None)

    def _note(self, told: str, keys: list[int], version: int | None) -> None:
        self._count(f"docs {told}")
        for key in keys:
            if told == "done":
                self._versions[key] = version
            elif told == "unknown":  # it may still be done, whenever whoever has it goes on
                self._perhaps[key].add(version)

    def _find_one(self, chance: random.Random) -> None:
        """A row is found by its own vector, or at least it is there."""
        key = chance.randrange(KEYS)
        version = self._versions[key]
        if version is None or self._perhaps[key]:
            return
        node = self._node(chance)
        distance = f"vec <-> {text_of(vector_of(key, version))}"
        told = self._ask(node, f"SELECT id, {distance} AS d FROM docs ORDER BY d LIMIT 1", True)
        if told is None:
            return
        self._count("found by itself" if told and told[0][0] == key else "missed by an index")
        if not told or told[0][0] != key:
            there = self._ask(node, f"SELECT v FROM docs WHERE id = {key}", True)
            if there is not None and there != [[version]]:
                self._say(f"{node.name} shows {there} of {key}, not version {version}")

    def _ask(self, node: Process, text: str, linearizable: bool) -> list[Any] | None:
        """The rows; None where there was no answer."""
        level = "linearizable" if linearizable else "any"
        status, answer = node.sql(text, settings={"read_level": level}, timeout_s=10.0)
        if status == 200:
            return list(answer["rows"])
        word = answer.get("code", "") if isinstance(answer, dict) else ""
        self._count(f"reads not answered: {status} {word}".strip())
        return None

    # ---- searches -------------------------------------------------------------------------------

    def _search(self, chance: random.Random) -> None:
        while not self._stopped.wait(self._pause_s):
            node, linearizable = self._node(chance), chance.random() < 0.3
            query = vector_of(chance.randrange(KEYS), chance.randrange(1 << 31, 1 << 32))
            kind = chance.choice((None, chance.randrange(KINDS)))
            rows = self._ask(node, _search_text(query, kind), linearizable)
            if rows is not None:
                self._count("searches" if kind is None else "searches with a filter")
                if len(rows) < K and node.source is not None:
                    # Versions before 4d4cce7 read a copy that had just started.
                    self._count("searches of an early moment by the older version")
                    continue
                for problem in wrong_answers(rows, query, kind):
                    self._say(f"{node.name}: {problem}")

    def _join(self, chance: random.Random) -> None:
        while not self._stopped.wait(JOIN_S):
            node, first = self._node(chance), chance.randrange(KEYS - 100)
            rows = self._ask(
                node,
                "SELECT a.id, a.v, n.id, n.v, n.d FROM docs a CROSS JOIN LATERAL (SELECT b.id, b.v,"
                " b.vec <-> a.vec AS d FROM docs b WHERE b.id <> a.id ORDER BY d LIMIT 3) n "
                f"WHERE a.id >= {first} AND a.id < {first + 100} ORDER BY a.id, n.d",
                False,
            )
            if rows is not None:
                self._count("joins")
                for problem in wrong_neighbours(rows):
                    self._say(f"{node.name}: {problem}")

    # ---- tables that come and go ----------------------------------------------------------------

    def _change_tables(self, chance: random.Random) -> None:
        client, sent, number = uuid.uuid4(), 0, 0
        while not self._stopped.wait(DDL_S):
            number += 1
            name = f"passing{number}"
            with self.history.lock:
                self.dropped.append(name)
            for text in _life_of(name, chance):
                sent += 1
                told = self._send(chance, text, f"{client}:{sent}")
                self._count(f"changes of tables {told}")
                if told != "done":
                    break
            gone = False
            while not gone and not self._stopped.wait(0.5):
                sent += 1
                told = self._send(chance, f"DROP TABLE IF EXISTS {name}", f"{client}:{sent}")
                gone = told == "done"
            if not gone:  # stopped meanwhile
                self.nodes.write(f"DROP TABLE IF EXISTS {name}", timeout_s=HEAL_S)

    # ---- backups --------------------------------------------------------------------------------

    def _back_up(self, chance: random.Random) -> None:
        while not self._stopped.wait(BACKUP_S):
            told = self.back_up(self._node(chance))
            self._count(f"backups {told}")
            if told == "done":
                self._prune()

    def back_up(self, node: Process) -> str:
        """Take a backup; done, or the word of what kept it from that."""
        members = {"repository": str(self.repository)}
        return self._job(node, "/v1/backup", members)

    def _job(self, node: Process, path: str, members: dict[str, Any]) -> str:
        status, told = node.request("POST", path, members)
        if status != 200:
            return f"{status} {told.get('code', '') if isinstance(told, dict) else ''}".strip()
        until = time.monotonic() + BACKUP_LIMIT_S
        while time.monotonic() < until:
            found = job(self.nodes, told["job"])
            if found["state"] in OVER:
                return "done" if found["state"] == "done" else f"{found['state']}"
            if not node.runs or found["state"] == "unknown":
                return "ended with its node"
            time.sleep(0.2)  # the polling interval
        return "not over in time"

    def _prune(self) -> None:
        command = ["backup", "prune", str(self.repository), "--keep", KEPT_BACKUPS]
        done = subprocess.run(
            [sys.executable, "-m", "nearql", *command], capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            self._count("prunes done")
        elif "repository_busy" in done.stderr:  # a backup whose node was killed holds it a while
            self._count("prunes that met somebody at work")
        else:
            self._say(f"a prune failed: {done.stderr[-500:]}")

    # ---- judging --------------------------------------------------------------------------------

    def problems(self) -> list[str]:
        """What is wrong, once everything is healed; empty if nothing is."""
        found = super().problems() + self.wrong
        found += self._wrong_docs() + self._wrong_searches() + self._unlike() + self._unrestored()
        missed, hit = self.counts["missed by an index"], self.counts["found by itself"]
        if missed > max(1, MISSES * (missed + hit)):
            found.append(f"{missed} of {missed + hit} rows were not found by their own vector")
        return found

    def _wrong_docs(self) -> list[str]:
        """Keys that have another version than they may."""
        rows = self.nodes.write("SELECT id, kind, v, vec FROM docs ORDER BY id")["rows"]
        shown = {key: (kind, v, vec) for key, kind, v, vec in rows}
        found = [f"docs shows {len(rows)} rows with {len(shown)} keys"] * (len(rows) != len(shown))
        for key in range(KEYS):
            row = shown.pop(key, None)
            version = None if row is None else row[1]
            allowed = {self._versions[key], *self._perhaps[key]}
            if version not in allowed:
                found.append(f"docs shows version {version} of {key}, not one of {allowed}")
            elif row is not None and not _is_right(key, *row):
                found.append(f"docs shows {row} of {key}")
        return (found + [f"docs shows rows of nobody: {sorted(shown)[:5]}"] * bool(shown))[:10]

    def _wrong_searches(self) -> list[str]:
        """Searches on each node against all of its rows."""
        chance, found = random.Random(self._seed), []
        settings = {"read_level": "linearizable"}
        for node in self.nodes.nodes.values():
            rows = node.sql("SELECT id, kind, v FROM docs", settings=settings)[1]["rows"]
            vectors = np.array([vector_of(key, v) for key, _, v in rows])
            kinds, hits = np.array([row[1] for row in rows]), 0
            for number in range(40):
                query = vector_of(number, 1 << 31)
                kind = None if number % 2 else chance.randrange(KINDS)
                among = np.flatnonzero(kinds == kind) if kind is not None else np.arange(len(rows))
                order = np.argsort(np.linalg.norm(vectors[among] - query, axis=1))[:K]
                wanted = {rows[at][0] for at in among[order]}
                told = node.sql(_search_text(query, kind), settings=settings)[1]["rows"]
                found += [f"{node.name}: {p}" for p in wrong_answers(told, query, kind)]
                hits += len(wanted & {row[0] for row in told})
            if hits < RECALL * 40 * K:
                found.append(f"{node.name} found {hits} of the {40 * K} nearest rows")
        return found[:10]

    def _unlike(self) -> list[str]:
        """Copies that hold something else than the others, by hashes at one LSN."""
        found: list[str] = []

        def compared() -> bool:
            rows = [
                [table, *row]
                for table in ("docs", "log", "counters", "accounts")
                for row in self.nodes.write(f"CHECK TABLE {table}")["rows"]
            ]
            found.extend(f"CHECK TABLE {row}" for row in rows if row[4] not in ("ok", "unknown"))
            return all(row[4] != "unknown" for row in rows)

        wait_for(compared, "all copies are compared", HEAL_S)
        return found

    def _unrestored(self) -> list[str]:
        """A backup of the end, restored beside the table, holds the same."""
        node = next(iter(self.nodes.nodes.values()))
        if (told := self.back_up(node)) != "done":
            return [f"a backup of a healed cluster: {told}"]
        members = {"repository": str(self.repository), "tables": ["docs"], "as": ["docs_back"]}
        if (told := self._job(node, "/v1/restore", members)) != "done":
            return [f"a restore on a healed cluster: {told}"]
        texts = [
            f"SELECT id, kind, v, vec FROM {name} ORDER BY id" for name in ("docs", "docs_back")
        ]
        one, other = (self.nodes.write(text)["rows"] for text in texts)
        return ["what was restored is not what was backed up"] * (one != other)


def _insert(versions: list[tuple[int, int]]) -> str:
    rows = ", ".join(
        f"({key}, {key % KINDS}, {version}, {text_of(vector_of(key, version))})"
        for key, version in versions
    )
    update = "DO UPDATE SET kind = excluded.kind, v = excluded.v, vec = excluded.vec"
    return f"INSERT INTO docs VALUES {rows} ON CONFLICT (id) {update}"


def _search_text(query: Vector, kind: int | None) -> str:
    where = "" if kind is None else f"WHERE kind = {kind} "
    return (
        f"SELECT id, kind, v, vec, vec <-> {text_of(query)} AS d FROM docs "
        f"{where}ORDER BY d LIMIT {K}"
    )


def _life_of(name: str, chance: random.Random) -> list[str]:
    """Statements of a table that does not stay."""
    options = f"shards = {chance.randint(1, 2)}, replicas = {chance.randint(2, 3)}"
    rows = ", ".join(f"({number}, '[{number},1]')" for number in range(30))
    return [
        f"CREATE TABLE {name} (id BIGINT PRIMARY KEY, vec VECTOR(2)) WITH ({options})",
        f"INSERT INTO {name} VALUES {rows}",
        f"CREATE INDEX {name}_vec ON {name} USING hnsw (vec vector_l2_ops)",
        f"ALTER TABLE {name} ADD COLUMN t TEXT DEFAULT 'late'",
        f"UPDATE {name} SET t = 'changed' WHERE id < 10",
        f"ALTER TABLE {name} DROP COLUMN t",
    ]


def _is_right(key: int, kind: int, version: int, vector: list[float]) -> bool:
    shown = np.array(vector, np.float32)  # JSON has the shortest text that means this float32
    return kind == key % KINDS and np.array_equal(shown, vector_of(key, version))


def wrong_answers(rows: list[Any], query: Vector, kind: int | None) -> list[str]:
    """What is wrong with a search's answer: (id, kind, v, vec, distance), nearest first."""
    found = [f"a search shows {row}" for row in rows if not _is_right(*row[:4])]
    found += [f"kind {kind} shows {row}" for row in rows if kind is not None and row[1] != kind]
    distances = [row[4] for row in rows]
    if (
        distances != sorted(distances)
        or len({row[0] for row in rows}) != len(rows)
        or len(rows) != K
    ):
        found.append(f"not the {K} nearest in order: {[(row[0], row[4]) for row in rows]}")
    true = [float(np.linalg.norm(np.array(row[3], np.float32) - query)) for row in rows]
    if not np.allclose(true, distances, rtol=1e-4, atol=1e-4):
        found.append(f"distances are {true}, not {distances}")
    return found[:3]


def wrong_neighbours(rows: list[Any]) -> list[str]:
    """What is wrong with a join's answer: (id, v, neighbour's id, its v, distance)."""
    by_row: dict[int, list[Any]] = {}
    for row in rows:
        by_row.setdefault(row[0], []).append(row)
    found = []
    for key, near in by_row.items():
        distances = [row[4] for row in near]
        true = [
            float(np.linalg.norm(vector_of(row[0], row[1]) - vector_of(row[2], row[3])))
            for row in near
        ]
        right = len({row[2] for row in near} - {key}) == 3 and distances == sorted(distances)
        if not right or not np.allclose(true, distances, rtol=1e-4, atol=1e-4):
            found.append(f"neighbours of {key}: {near}, at {true}")
    return found[:3]
