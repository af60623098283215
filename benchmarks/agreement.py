"""Agreement on metadata: what a commit costs, and how soon the voters go on after a fault.

    python3 dev.py bench agreement [--only commit,pipelined,...] [--rounds 30] [--json FILE]

Three real sidecars with TLS and fsync, each on a machine of its own (network namespaces, joined by
a bridge, with a name server that answers as it is told). Needs root, `ip` and `iptables`.

commit      one command after the other, on the leader's node and on a follower's: ms
pipelined   many commands under way at once, on the leader's node: commands a second
stopped     the leader's node is shut down: seconds until a command is committed elsewhere
failover    the leader is killed, and does not come back: seconds until another leads, and until
            a command is committed; with election timeouts of 1 to 2.5 s, and of 0.5 to 1.5 s
healed      a node is cut off for 35 s, the leader or another: seconds from the end of the cut
            until it has what was committed meanwhile, and its own command is committed
moved       a node vanishes without a word and comes back with another address, at once: seconds
            from its start until the others reach it and it has everything
absent      commits with one voter gone, and its name unknown to a name server that takes 2 s
kills       all voters killed at once, again and again, under load, with a snapshot every 40
            commands: commands acknowledged, and lost; states compared

Times are of this machine, which also plays the network and the clients. Each goal is printed beside
its figure; the exit code is 1 if one was missed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from provenance import commit, machine

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from nearql.cluster.metadata.codec import encode_command
from nearql.cluster.metadata.nodes import ChangeSetting
from nearql.cluster.metadata.raft.library import Outcome
from support.chaos_network import Network, network, possible
from support.raft_processes import Cluster, Writers, change, running
from support.waiting import wait_for

NAMES = ("n1", "n2", "n3")
PATIENCE_MS = 120_000
USUAL, QUICK = (1.0, 2.5), (0.5, 1.5)
Figures = dict[str, Any]


@contextmanager
def voters(
    timeouts: tuple[float, float] = USUAL, **options: int
) -> Iterator[tuple[Cluster, Network]]:
    """A cluster that has a leader, and its network."""
    with network(NAMES, resolving=True) as net, tempfile.TemporaryDirectory() as folder:
        low, high = timeouts
        with running(
            Path(folder), network=net, election_min_s=low, election_max_s=high, **options
        ) as cluster:
            commits(cluster, cluster.leader(), 20)
            cluster.settled()
            yield cluster, net


def commits(cluster: Cluster, name: str, count: int) -> list[float]:
    """Seconds of commands, one after the other, each committed and applied on this node."""
    metadata, took = cluster.metadata[name], []
    for _ in range(count):
        command = change(f"one of {name}", None)
        began = time.perf_counter()
        result = metadata.propose(command, timeout_ms=PATIENCE_MS)
        took.append(time.perf_counter() - began)
        assert result.ok, result
    return took


def in_ms(seconds: list[float]) -> Figures:
    """p50, p95 and worst."""
    ordered = sorted(1000 * value for value in seconds)
    return {
        "p50_ms": round(statistics.median(ordered), 2),
        "p95_ms": round(percentile(ordered, 95), 2),
        "worst_ms": round(ordered[-1], 2),
        "count": len(ordered),
    }


def in_s(seconds: list[float]) -> Figures:
    """The same for longer times."""
    ordered = sorted(seconds)
    return {
        "p50_s": round(statistics.median(ordered), 2),
        "p95_s": round(percentile(ordered, 95), 2),
        "worst_s": round(ordered[-1], 2),
        "rounds": len(ordered),
    }


def percentile(ordered: list[float], share: int) -> float:
    """The smallest value that so many percent do not exceed."""
    return ordered[max(0, -(-len(ordered) * share // 100) - 1)]


# ---- the parts ---------------------------------------------------------------------------------


def commit_times(_rounds: int) -> Figures:
    """Latency of one command after the other."""
    with voters() as (cluster, _):
        leader = cluster.leader()
        follower = next(name for name in NAMES if name != leader)
        return {
            "leader": in_ms(commits(cluster, leader, 1000)),
            "follower": in_ms(commits(cluster, follower, 1000)),
            "goal": "p50 < 5 ms",
        }


def pipelined(_rounds: int) -> Figures:
    """Commands a second, many of them under way; each is applied on this node when it counts."""
    with voters() as (cluster, _):
        metadata, leader = cluster.metadata[cluster.leader()], cluster.leader()
        found = {}
        for under_way in (100, 400):
            count, waiting = 20_000, deque[Any]()
            began = time.perf_counter()
            for number in range(count):
                command = ChangeSetting(
                    request_id=uuid.uuid4().hex, name=f"p{number % 50}", value=None, expected=None
                )
                waiting.append(metadata._ask(("submit", encode_command(command))))
                if len(waiting) >= under_way:
                    take(waiting.popleft())
            for request in waiting:
                take(request)
            found[f"{under_way} under way"] = round(count / (time.perf_counter() - began))
        return {"commands_per_s": found, "leader": leader == cluster.leader(), "goal": ">= 5000"}


def take(request: Any) -> None:
    """Wait for one command of many; it must have been applied."""
    assert request.ended.wait(60)
    assert request.outcome is Outcome.APPLIED, request
    assert not request.result[0], request.result


def failover(rounds: int) -> Figures:
    """Both pairs of timeouts."""
    return {
        "1 to 2.5 s": {**failovers(USUAL, rounds), "goal": "p95 < 3 s"},
        "0.5 to 1.5 s": {**failovers(QUICK, rounds), "goal": "p95 < 1.5 s"},
    }


def failovers(timeouts: tuple[float, float], rounds: int) -> Figures:
    """The leader's sidecar is killed, with its data process; others go on; then it comes back."""
    elected, first = [], []
    with voters(timeouts) as (cluster, _):
        for _ in range(rounds):
            leader, others = agreed(cluster)
            time.sleep(1.0)
            began = time.perf_counter()
            cluster.kill(leader)
            cluster.stop(leader)
            new_leader(cluster, others)
            elected.append(time.perf_counter() - began)
            commits(cluster, others[0], 1)
            first.append(time.perf_counter() - began)
            cluster.start(leader)
            cluster.settled()
    return {"leader": in_s(elected), "first_commit": in_s(first)}


def agreed(cluster: Cluster) -> tuple[str, list[str]]:
    """(the leader, the others), once all follow it."""
    leader = cluster.leader()
    members = cluster.metadata.values()
    wait_for(lambda: all(m.status.get("leader") == leader for m in members), "one leader", 60)
    return leader, [name for name in NAMES if name != leader]


def new_leader(cluster: Cluster, names: list[str]) -> None:
    """Wait until one of these says that it leads."""
    wait_for(
        lambda: any(cluster.metadata[name].status.get("leading") for name in names), "a leader", 60
    )


def stopped(rounds: int) -> Figures:
    """A clean stop: the leader hands over before it ends."""
    first = []
    with voters() as (cluster, _):
        for _ in range(rounds):
            leader, others = agreed(cluster)
            time.sleep(1.0)
            cluster.stop(leader)
            began = time.perf_counter()
            commits(cluster, others[0], 1)
            first.append(time.perf_counter() - began)
            cluster.start(leader)
            cluster.settled()
    return {"first_commit": in_s(first), "goal": "p95 < 1 s, the shortest election timeout"}


def healed(rounds: int) -> Figures:
    """After 35 s without a word."""
    times: dict[str, list[float]] = {"leader": [], "follower": []}
    with voters() as (cluster, net):
        for role in [*times] * max(1, rounds // 10):
            leader = cluster.leader()
            name = leader if role == "leader" else next(n for n in NAMES if n != leader)
            isolate(net, name)
            until = time.monotonic() + 35.0
            other = next(n for n in NAMES if n != name)
            commits(cluster, other, 50)
            time.sleep(until - time.monotonic())
            began = time.perf_counter()
            net.heal()
            commits(cluster, name, 1)
            times[role].append(time.perf_counter() - began)
            cluster.settled()
    return {**{role: in_s(found) for role, found in times.items()}, "goal": "< 3 s"}


def isolate(net: Network, name: str) -> None:
    """Nothing passes to or from a node."""
    for other in NAMES:
        if other != name:
            net.cut(name, other)
            net.cut(other, name)


def moved(rounds: int) -> Figures:
    """A pod that comes back elsewhere while nobody has noticed yet that it was gone."""
    times = []
    with voters() as (cluster, net):
        for name in itertools.islice(itertools.cycle(NAMES), max(3, rounds // 2)):
            isolate(net, name)
            cluster.stop(name)  # the others hear nothing of it
            net.move(name)
            net.heal()
            began = time.perf_counter()
            cluster.start(name)
            commits(cluster, name, 1)
            reached(cluster, name)
            times.append(time.perf_counter() - began)
            cluster.settled()
    return {**in_s(times), "goal": "worst < 3 s"}


def reached(cluster: Cluster, name: str) -> None:
    """Wait until the others have a link to a node."""
    others = [cluster.metadata[other] for other in NAMES if other != name]
    wait_for(lambda: all(name in m.status["links_up"] for m in others), "links", 60)


def absent(_rounds: int) -> Figures:
    """Commits on the leader's node: all there; one gone; and its name resolved slowly or never."""
    with voters() as (cluster, net):
        leader = cluster.leader()
        found = {"all_there": in_ms(commits(cluster, leader, 500))}
        gone = next(name for name in NAMES if name != leader)
        isolate(net, gone)
        cluster.stop(gone)
        assert net.resolver is not None
        time.sleep(3.0)  # its links are down
        found["one_absent"] = in_ms(commits(cluster, leader, 500))
        del net.resolver.addresses[net.full_name(gone)]
        net.resolver.delays_s[net.full_name(gone)] = 2.0
        before = len(net.resolver.asked)
        found["slow_names"] = in_ms(commits(cluster, leader, 2000))
        asked = net.resolver.asked[before:].count(net.full_name(gone))
        return {**found, "slow_questions": asked, "goal": "p50 < 5 ms in each"}


def kills(rounds: int) -> Figures:
    """Acknowledged commands, and what of them each node has in the end."""
    with voters(QUICK, compact_entries=40) as (cluster, _):
        writers = Writers(cluster)
        try:
            for _ in range(rounds):
                kill_all(cluster, writers)
        finally:
            writers.stop()
        cluster.settled()
        states = [cluster.metadata[name].state for name in NAMES]
        return {
            "rounds": rounds,
            "acknowledged": len(writers.acknowledged),
            "lost": sum(writers.lost().values()),
            "states_equal": all(state == states[0] for state in states),
            "goal": "0 lost, states equal",
        }


def kill_all(cluster: Cluster, writers: Writers) -> None:
    """One round: something is acknowledged, all are killed, all were started again."""
    enough = len(writers.acknowledged) + 60
    wait_for(lambda: len(writers.acknowledged) >= enough, "progress", 120)
    before = {name: metadata.restarts for name, metadata in cluster.metadata.items()}
    cluster.kill(*NAMES)
    wait_for(
        lambda: all(m.restarts > before[name] for name, m in cluster.metadata.items()),
        "three restarts",
        60,
    )


PARTS: dict[str, Callable[[int], Figures]] = {
    "commit": commit_times,
    "pipelined": pipelined,
    "failover": failover,
    "stopped": stopped,
    "healed": healed,
    "moved": moved,
    "absent": absent,
    "kills": kills,
}


def missed(found: dict[str, Figures]) -> list[str]:
    """The goals that were not met, by part."""
    checks: dict[str, Callable[[Figures], bool]] = {
        "commit": lambda f: max(f["leader"]["p50_ms"], f["follower"]["p50_ms"]) < 5,
        "pipelined": lambda f: max(f["commands_per_s"].values()) >= 5000,
        "failover": lambda f: (
            f["1 to 2.5 s"]["first_commit"]["p95_s"] < 3
            and f["0.5 to 1.5 s"]["first_commit"]["p95_s"] < 1.5
        ),
        "stopped": lambda f: f["first_commit"]["p95_s"] < 1,
        "healed": lambda f: max(f["leader"]["worst_s"], f["follower"]["worst_s"]) < 3,
        "moved": lambda f: f["worst_s"] < 3,
        "absent": lambda f: max(f[k]["p50_ms"] for k in ("one_absent", "slow_names")) < 5,
        "kills": lambda f: f["lost"] == 0 and f["states_equal"],
    }
    return [name for name, figures in found.items() if not checks[name](figures)]


def keep(file: Path, found: dict[str, Figures]) -> None:
    """Write the figures beside those of other parts, each with its commit and the machine's load:
    how many processes wanted a core in the last minute.
    """
    parts = json.loads(file.read_text())["parts"] if file.exists() else {}
    of = {"commit": commit(), "load": round(os.getloadavg()[0], 1)}
    parts |= {name: {**of, **figures} for name, figures in found.items()}
    result = {"machine": machine(), "parts": parts, "missed": missed(parts)}
    file.write_text(json.dumps(result, indent=1) + "\n")


def main(argv: list[str]) -> int:
    """0 if every goal was met."""
    parser = argparse.ArgumentParser(prog="dev.py bench agreement", description=__doc__)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas")
    parser.add_argument("--rounds", type=int, default=30, help="of kills and failovers")
    parser.add_argument("--json", type=Path, metavar="FILE")
    chosen = parser.parse_args(argv)
    if not possible():
        sys.exit("This needs root, `ip` (iproute2), `iptables`, and network namespaces.")
    found: dict[str, Figures] = {}
    for name in chosen.only.split(","):
        found[name] = PARTS[name](chosen.rounds)
        print(json.dumps({name: found[name]}), flush=True)
    too_slow = missed(found)
    if chosen.json:
        keep(chosen.json, found)
    print(f"goals missed: {', '.join(too_slow) or 'none'}")
    return 1 if too_slow else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
