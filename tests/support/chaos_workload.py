"""Writers and readers of a cluster under faults, what they were told, and whether it was true.

Writers send majority writes to any node: rows with new keys, deletes of some of them, `n = n + 1`
on a few counters, and transfers between two accounts. What is not answered is sent again under its
request id a few times. Then:

- a row that was answered is there once, with its content, and is its own nearest neighbour; one
  that was refused for certain is not there; one that was deleted never comes back;
- whoever reads the accounts, on any node at any time, sees the same sum: no transfer is half done;
- a counter is at least the increments answered, at most those and the ones whose fate is unknown:
  a retry that was done twice, or a lost increment, shows;
- a linearizable read that was answered shows what was acknowledged before it was asked;
- all nodes show the same in the end.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from support.cluster_processes import Process, Processes
from support.waiting import wait_for

COUNTERS = 5
ACCOUNTS, EACH = 10, 100
WRITERS = 3
TRIES = 4
HEAL_S = 120.0
SETTINGS = {"write_concern": "majority", "write_timeout_ms": 3000}


def vector_of(key: int) -> list[float]:
    """What a row's vector must be."""
    return [float(key % 97), float(key % 89), 1.0]


@dataclass
class History:
    """What was told. Keys of rows; numbers of increments by counter."""

    acknowledged: set[int] = field(default_factory=set)
    refused: set[int] = field(default_factory=set)
    unknown: set[int] = field(default_factory=set)
    doomed: set[int] = field(default_factory=set)  # somebody tried to delete them
    deleted: set[int] = field(default_factory=set)
    added: Counter[int] = field(default_factory=Counter)
    perhaps_added: Counter[int] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    stale: list[str] = field(default_factory=list)
    reads: int = 0
    last_ack: float = 0.0
    longest_gap_s: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note_ack(self) -> None:
        """A write was acknowledged now."""
        now = time.monotonic()
        if self.last_ack:
            self.longest_gap_s = max(self.longest_gap_s, now - self.last_ack)
        self.last_ack = now


class Workload:
    """Threads that write and read until `stop`."""

    def __init__(self, nodes: Processes, seed: int, pause_s: float = 0.0) -> None:
        """pause_s: how long each writer rests between two writes."""
        self.nodes, self.history = nodes, History()
        self._seed, self._pause_s = seed, pause_s
        self._stopped = threading.Event()
        work = [(self._write, number) for number in range(WRITERS)] + [(self._read, WRITERS)]
        self._threads = [threading.Thread(target=run, args=(n,)) for run, n in work]

    def prepare(self) -> None:
        """Make the tables."""
        self.nodes.write("CREATE TABLE log (id BIGINT PRIMARY KEY, t TEXT, vec VECTOR(3))")
        self.nodes.write("CREATE TABLE counters (id BIGINT PRIMARY KEY, n BIGINT)")
        values = ", ".join(f"({number}, 0)" for number in range(COUNTERS))
        self.nodes.write(f"INSERT INTO counters VALUES {values}", f"{uuid.uuid4()}:1")
        self.nodes.write("CREATE TABLE accounts (id BIGINT PRIMARY KEY, n BIGINT)")
        values = ", ".join(f"({number}, {EACH})" for number in range(ACCOUNTS))
        self.nodes.write(f"INSERT INTO accounts VALUES {values}", f"{uuid.uuid4()}:1")

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End; what is under way is waited for."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    # ---- writing --------------------------------------------------------------------------------

    def _write(self, number: int) -> None:
        chance = random.Random(f"{self._seed}/{number}")
        client, sent = uuid.uuid4(), 0
        while not self._stopped.wait(self._pause_s):
            sent += 1
            request_id = f"{client}:{sent}"
            what = chance.random()
            if what < 0.6:
                self._insert(chance, request_id, number * 1_000_000 + sent)
            elif what < 0.75:
                self._increment(chance, request_id, chance.randrange(COUNTERS))
            elif what < 0.9:
                self._transfer(chance, request_id)
            else:
                self._delete(chance, request_id, number)

    def _insert(self, chance: random.Random, request_id: str, key: int) -> None:
        statement = f"INSERT INTO log VALUES ({key}, 't{key}', '{vector_of(key)}')"
        told, history = self._send(chance, statement, request_id), self.history
        with history.lock:
            {"done": history.acknowledged, "refused": history.refused, "unknown": history.unknown}[
                told
            ].add(key)

    def _increment(self, chance: random.Random, request_id: str, counter: int) -> None:
        statement = f"UPDATE counters SET n = n + 1 WHERE id = {counter}"
        told, history = self._send(chance, statement, request_id), self.history
        with history.lock:
            history.added[counter] += told == "done"
            history.perhaps_added[counter] += told == "unknown"

    def _transfer(self, chance: random.Random, request_id: str) -> None:
        one, other = chance.sample(range(ACCOUNTS), 2)
        amount = f"CASE id WHEN {one} THEN -7 ELSE 7 END"
        statement = f"UPDATE accounts SET n = n + {amount} WHERE id IN ({one}, {other})"
        self._send(chance, statement, request_id)

    def _delete(self, chance: random.Random, request_id: str, number: int) -> None:
        """One of this writer's own rows, for good."""
        history = self.history
        with history.lock:
            mine = [
                key for key in history.acknowledged - history.doomed if key // 1_000_000 == number
            ]
            if not mine:
                return
            key = chance.choice(mine)
            history.doomed.add(key)
        told = self._send(chance, f"DELETE FROM log WHERE id = {key}", request_id)
        with history.lock:
            if told == "done":
                history.deleted.add(key)
            elif told == "refused":
                history.doomed.discard(key)

    def _send(self, chance: random.Random, statement: str, request_id: str) -> str:
        """done, refused (certainly not done) or unknown."""
        told = "refused"
        for _ in range(TRIES):
            node = chance.choice(list(self.nodes.nodes.values()))
            status, answer = node.sql(
                statement, settings=SETTINGS, request_id=request_id, timeout_s=6.0
            )
            with self.history.lock:
                self.history.answers[_word(status, answer)] += 1
            if status == 200:
                with self.history.lock:
                    self.history.note_ack()
                return "done"
            if not (isinstance(answer, dict) and answer.get("definite")):
                told = "unknown"
            if self._stopped.wait(0.2):
                break
        return told

    # ---- reading --------------------------------------------------------------------------------

    def _read(self, number: int) -> None:
        chance = random.Random(f"{self._seed}/{number}")
        while not self._stopped.wait(max(self._pause_s, 0.05)):
            self._read_accounts(chance)
            with self.history.lock:
                known = list(self.history.acknowledged - self.history.doomed)
            if not known:
                continue
            key = chance.choice(known)
            node = chance.choice(list(self.nodes.nodes.values()))
            status, answer = node.sql(
                f"SELECT count(*) FROM log WHERE id = {key}",
                settings={"read_level": "linearizable"}, timeout_s=6.0,
            )  # fmt: skip
            with self.history.lock:
                self.history.reads += status == 200
                if status == 200 and answer["rows"] != [[1]] and key not in self.history.doomed:
                    self.history.stale.append(f"{node.name} did not show {key}: {answer}")

    def _read_accounts(self, chance: random.Random) -> None:
        node = chance.choice(list(self.nodes.nodes.values()))
        status, answer = node.sql(
            "SELECT count(*), CAST(sum(n) AS BIGINT) FROM accounts",
            settings={"read_level": "any"},
            timeout_s=6.0,
        )
        whole = ([0, None], [ACCOUNTS, ACCOUNTS * EACH])  # from before, or after they were made
        if status == 200 and answer["rows"][0] not in whole:
            with self.history.lock:
                self.history.stale.append(f"{node.name} shows half a transfer: {answer['rows']}")

    # ---- judging --------------------------------------------------------------------------------

    def problems(self) -> list[str]:
        """What is wrong, once everything is healed; empty if nothing is."""
        shown = self._settled()
        first: Any = next((body for body in shown.values() if body is not None), ([], []))
        found = [f"{name} shows other rows" for name, body in shown.items() if body != first]
        found += self.history.stale + self._wrong_rows(first[0]) + self._wrong_sums(first[1])
        return found + self._not_found()

    def _settled(self) -> dict[str, Any]:
        """What each node shows by itself, once all show the same, or after HEAL_S."""
        marker = f"INSERT INTO log VALUES ({-time.time_ns()}, '', '[0,0,1]')"
        self.nodes.write(marker, f"{uuid.uuid4()}:1", HEAL_S)
        shown: dict[str, Any] = {}

        def same() -> bool:
            shown.update({name: self._shown(node) for name, node in self.nodes.nodes.items()})
            return len({repr(body) for body in shown.values()}) == 1 and None not in shown.values()

        with contextlib.suppress(AssertionError):  # told by `problems`
            wait_for(same, "all nodes show the same", HEAL_S)
        return shown

    def _shown(self, node: Process) -> tuple[list[Any], list[Any]] | None:
        texts = ("SELECT id, t, vec FROM log ORDER BY id", "SELECT id, n FROM counters ORDER BY id")
        answers = [node.sql(text, settings={"read_level": "any"}) for text in texts]
        if any(status != 200 for status, _ in answers):
            return None
        return answers[0][1]["rows"], answers[1][1]["rows"]

    def _wrong_rows(self, rows: list[Any]) -> list[str]:
        history = self.history
        shown = {key: (text, vector) for key, text, vector in rows if key >= 0}
        lost = history.acknowledged - history.doomed - shown.keys()
        undead = history.deleted & shown.keys()
        undone = history.refused & shown.keys()
        foreign = shown.keys() - history.acknowledged - history.unknown - history.refused
        halved = [k for k, row in shown.items() if row != (f"t{k}", vector_of(k))]
        kinds = {
            "lost": lost, "refused, and there": undone, "of nobody": foreign, "wrong": halved,
            "deleted, and there": undead,
        }  # fmt: skip
        return [f"{len(k)} rows {what}: {sorted(k)[:5]}" for what, k in kinds.items() if k]

    def _not_found(self) -> list[str]:
        """Rows that a search for their own vector does not find at distance 0, on each node."""
        known = sorted(self.history.acknowledged - self.history.doomed)[-20:]
        found = []
        for node in self.nodes.nodes.values():
            for key in known:
                distance = f"vec <-> '{vector_of(key)}'"
                text = f"SELECT {distance} FROM log ORDER BY {distance} LIMIT 1"
                status, answer = node.sql(text, settings={"read_level": "any"})
                if status != 200 or answer["rows"] != [[0.0]]:
                    found.append(f"{node.name} does not find the vector of {key}: {answer}")
        return found[:5]

    def _wrong_sums(self, rows: list[Any]) -> list[str]:
        added, perhaps = self.history.added, self.history.perhaps_added
        return [
            f"counter {key} is {n}, not {added[key]} to {added[key] + perhaps[key]}"
            for key, n in rows
            if not added[key] <= n <= added[key] + perhaps[key]
        ]


def _word(status: int, answer: Any) -> str:
    return f"{status} {answer.get('code', '')}".strip() if isinstance(answer, dict) else "none"
