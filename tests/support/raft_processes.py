"""Clusters of real sidecars on loopback, their data process being the test."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from nearql.cluster.certificates import make_certificates
from nearql.cluster.metadata.nodes import ChangeSetting
from nearql.cluster.metadata.raft.replicated import ReplicatedMetadata
from nearql.cluster.metadata.raft.sidecar import SidecarConfig
from nearql.engine.errors import NearQLError
from nearql.engine.storage.files import LocalFileSystem
from support.chaos_network import Network
from support.waiting import wait_for


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, and that the kernel gives to nobody who dials: whoever was
    killed finds them free again.
    """
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        for port in random.SystemRandom().sample(range(20_000, 32_000), 2_000):
            with contextlib.suppress(OSError):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
                found.append(port)
            if len(found) == count:
                return found
    raise AssertionError("too few ports are free")


def change(name: str, value: str | None = "x", request: str = "") -> ChangeSetting:
    """A small command; the name is new, so that it succeeds once."""
    return ChangeSetting(
        request_id=request or uuid.uuid4().hex, name=name, value=value, expected=None
    )


class Cluster:
    """Voters by name. `metadata[name]` is None while that one is stopped."""

    def __init__(
        self, folder: Path, size: int = 3, *, network: Network | None = None, **options: object
    ) -> None:
        """network: each voter on a machine of its own; else all on loopback."""
        self.folder, self.network = folder, network
        self.names = [f"n{number}" for number in range(1, size + 1)]
        make_certificates(folder / "certificates", self.names)
        ports = free_ports(size)
        self.voters = {
            name: (self._host(name), port) for name, port in zip(self.names, ports, strict=True)
        }
        self.options = options
        self.metadata: dict[str, ReplicatedMetadata] = {}

    def _host(self, name: str) -> str:
        if self.network is None:
            return "127.0.0.1"
        return self.network.full_name(name) if self.network.resolver else self.network.host(name)

    def config(self, name: str) -> SidecarConfig:
        port = self.voters[name][1]
        certificates = self.folder / "certificates"
        config = SidecarConfig(
            name=name,
            voters=self.voters,
            listen=("127.0.0.1" if self.network is None else "0.0.0.0", port),
            directory=str(self.folder / name),
            ca_file=str(certificates / "ca.pem"),
            cert_file=str(certificates / f"{name}.pem"),
            key_file=str(certificates / f"{name}.key"),
            bootstrap=True,
        )
        return replace(config, **self.options)  # type: ignore[arg-type]

    def start(self, *names: str) -> None:
        for name in names or self.names:
            self.metadata[name] = self._started(name)
        for name in names or self.names:
            self.metadata[name].wait_ready(60)

    def _started(self, name: str) -> ReplicatedMetadata:
        def start() -> ReplicatedMetadata:
            return ReplicatedMetadata(self.config(name), LocalFileSystem())

        return start() if self.network is None else self.network.on(name, start)

    def stop(self, *names: str) -> None:
        for name in names or list(self.metadata):
            self.metadata.pop(name).close()

    def kill(self, *names: str) -> None:
        """kill -9 of sidecars; their data process starts them again."""
        for name in names:
            pid = self.metadata[name].sidecar_pid
            if pid is not None:
                os.kill(pid, signal.SIGKILL)

    def leader(self) -> str:
        """The leader's name, once there is one that most agree on."""
        found: list[str] = []

        def agreed() -> bool:
            leaders = [m.status.get("leader") for m in self.metadata.values() if m.ticking]
            found[:] = [
                name for name in set(leaders) if name and leaders.count(name) * 2 > len(self.names)
            ]
            return bool(found)

        wait_for(agreed, "a leader", 60)
        return found[0]

    def settled(self) -> None:
        """Wait until all have the same state."""
        for metadata in self.metadata.values():
            metadata.barrier(timeout_ms=60_000)

        def equal() -> bool:
            states = [m.state for m in self.metadata.values()]
            return all(state == states[0] for state in states)

        wait_for(equal, "equal states", 60)


class Writers:
    """Threads that propose at every node and remember what was acknowledged."""

    def __init__(self, cluster: Cluster) -> None:
        """Begin, with two threads a node."""
        self._cluster = cluster
        self.acknowledged: set[str] = set()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._write, args=(cluster, name, number))
            for name in cluster.names
            for number in range(2)
        ]
        for thread in self._threads:
            thread.start()

    def _write(self, cluster: Cluster, name: str, number: int) -> None:
        written = 0
        while not self._stop.is_set():
            key = f"{name}-{number}-{written}"
            written += 1
            try:
                if cluster.metadata[name].propose(change(key), timeout_ms=1000).ok:
                    self.acknowledged.add(key)
            except NearQLError:
                continue  # refused or unknown: it promises nothing

    def stop(self) -> None:
        """Wait until each has ended its last one."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def lost(self) -> dict[str, int]:
        """How many of the acknowledged commands each node lacks, those that lack none left out."""
        missing = {
            name: len(self.acknowledged - metadata.state.settings.keys())
            for name, metadata in self._cluster.metadata.items()
        }
        return {name: count for name, count in missing.items() if count}


@contextlib.contextmanager
def running(
    folder: Path, size: int = 3, *, network: Network | None = None, **options: object
) -> Iterator[Cluster]:
    """A started cluster, stopped at the end."""
    cluster = Cluster(folder, size, network=network, **options)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
