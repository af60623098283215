"""Clusters of real server processes on loopback, from empty disks, as people start them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from nearql.cluster.certificates import make_certificates
from support.chaos_disk import FAULTY_NODE, FaultyDisk
from support.chaos_network import Network
from support.raft_processes import free_ports
from support.waiting import wait_for

PATIENCE_S = 120.0
ADMIN_KEY = "of-the-tests-administrator-and-of-nobody-else"


class Process:
    """One node; `url` stays the same over its lives."""

    def __init__(
        self, name: str, config: Path, url: str, wrapper: Sequence[str] = (),
        program: Sequence[str] = ("-m", "nearql"),
    ) -> None:  # fmt: skip
        """wrapper: a command that runs the node's, which follows as its arguments. program: what
        Python runs.
        """
        self.name, self.config, self.url = name, config, url
        self._wrapper, self._program = list(wrapper), list(program)
        self.log = config.with_suffix(".log")
        self.source: Path | None = None  # the `src` of another checkout that it runs
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it answers after a while."""
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        if self.source is not None:
            environment["PYTHONPATH"] = str(self.source)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._wrapper, sys.executable, *self._program]
                + ["serve", "--config", str(self.config)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        """Of the process that runs now."""
        assert self._process is not None, f"{self.name} does not run"
        return self._process.pid

    def send(self, number: int) -> None:
        """A signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9, and collect it."""
        self.stop(signal.SIGKILL)

    def stop(self, number: int = signal.SIGTERM) -> int | None:
        """End it; its exit code, None where it did not run."""
        process, self._process = self._process, None
        if process is None:
            return None
        process.send_signal(number)
        try:
            return process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    @property
    def runs(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """Of the process that was started last and has ended by itself; None while it runs."""
        return self._process.poll() if self._process is not None else None

    # ---- HTTP -----------------------------------------------------------------------------------

    def get(self, path: str, timeout_s: float = 10.0) -> tuple[int, Any]:
        """(status, JSON) of a route; (0, None) where nothing answers."""
        return self.request("GET", path, timeout_s=timeout_s)

    def request(
        self, method: str, path: str, body: Any = None, *,
        headers: Mapping[str, str] | None = None, timeout_s: float = 40.0,
    ) -> tuple[int, Any]:  # fmt: skip
        """(status, JSON) of this very node, asked as the administrator."""
        data = None if body is None else json.dumps(body).encode()
        given = {"Authorization": f"Bearer {ADMIN_KEY}", **(headers or {})}
        if data is not None:
            given["Content-Type"] = "application/json"
        request = urllib.request.Request(self.url + path, data, given, method=method)
        return answer_of(request, timeout_s)

    def sql(
        self,
        text: str,
        *,
        settings: Mapping[str, Any] | None = None,
        request_id: str | None = None,
        timeout_s: float = 40.0,
    ) -> tuple[int, Any]:
        """(status, JSON) of a statement sent to this very node; redirects are not followed."""
        body = {"sql": text, "settings": dict(settings or {})}
        headers = {"NearQL-Request-Id": request_id} if request_id else {}
        return self.request("POST", "/v1/sql", body, headers=headers, timeout_s=timeout_s)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects, urllib.request.ProxyHandler({}))


def answer_of(request: urllib.request.Request, timeout_s: float) -> tuple[int, Any]:
    """(status, JSON); (0, reason) where nothing answered."""
    try:
        with _OPENER.open(request, timeout=timeout_s) as answer:
            return int(answer.status), _json(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, _json(error.read())
    except (OSError, urllib.error.URLError) as error:
        return 0, str(error)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="replace")


class Nodes:
    """Processes of one cluster by the names of their nodes, and what is asked of all of them."""

    def __init__(self, nodes: dict[str, Process]) -> None:
        self.nodes = nodes

    def __getitem__(self, name: str) -> Process:
        return self.nodes[name]

    def start(self, *names: str) -> None:
        """Start these, or all, and wait until each is ready."""
        for name in names or self.nodes:
            self.nodes[name].start()
        for name in names or self.nodes:
            self.wait_ready(name)

    def wait_ready(self, name: str) -> None:
        """Wait until a node says that it is ready."""
        node = self.nodes[name]

        def ready() -> bool:
            assert node.runs, f"{name} ended: {node.log.read_text()[-3000:]}"
            return node.get("/readyz")[0] == 200

        wait_for(ready, f"{name} ready", PATIENCE_S)

    def stop(self) -> None:
        """End all of them, whatever they do."""
        for node in self.nodes.values():
            if node.runs:
                node.send(signal.SIGCONT)
                node.send(signal.SIGTERM)
        for node in self.nodes.values():
            node.stop()

    def running(self) -> list[Process]:
        """Those that were started and have not ended."""
        return [node for node in self.nodes.values() if node.runs]

    def leader(self) -> str:
        """The leader's name, once most agree."""
        found: list[str] = []

        def agreed() -> bool:
            told = [node.get("/v1/cluster")[1] for node in self.running()]
            names = [t.get("leader") for t in told if isinstance(t, dict)]
            found[:] = [n for n in set(names) if n and names.count(n) * 2 > len(self.nodes)]
            return bool(found)

        wait_for(agreed, "a leader that most agree on", PATIENCE_S)
        return found[0]

    def primary(self, table: str) -> str | None:
        """The node that orders a table's writes, as most tell."""
        for node in self.running():
            status, told = node.get("/v1/cluster/shards")
            if status == 200:
                shards = [s for s in told["shards"] if s["table"] == table]
                if shards:
                    return str(shards[0]["primary"])
        return None

    def in_sync(self) -> bool:
        """Whether every shard has a primary, and all of its copies are in sync."""
        for node in self.running():
            status, told = node.get("/v1/cluster/shards")
            if status == 200:
                return all(
                    shard["primary"] and len(shard["in_sync"]) == len(shard["copies"])
                    for shard in told["shards"]
                )
        return False

    def write(self, text: str, request_id: str | None = None, timeout_s: float = PATIENCE_S) -> Any:
        """A statement that must succeed on some node in the end; its answer."""
        answers: list[tuple[int, Any]] = []

        def done() -> bool:
            for node in self.running():
                answers.append(node.sql(text, request_id=request_id))
                if answers[-1][0] == 200:
                    return True
            return False

        try:
            wait_for(done, text, timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}: {answers[-3:]}") from None
        return answers[-1][1]


class Processes(Nodes):
    """n1, n2, ...; the first three (or one) vote."""

    def __init__(
        self,
        folder: Path,
        size: int = 3,
        *,
        voters: int = 3,
        network: Network | None = None,
        faulty: bool = False,
        **settings: Mapping[str, Any],
    ) -> None:
        """voters: how many of the first vote. network: machines of their own; else all on loopback.
        faulty: their disks and clocks do as `disks` says. settings: sections to override.
        """
        self.folder, self._network, self._faulty = folder, network, faulty
        names = [f"n{number}" for number in range(1, size + 1)]
        make_certificates(folder / "certificates", names)
        (folder / "key").write_text(ADMIN_KEY)
        (folder / "key").chmod(0o600)
        ports = free_ports(3 * size)
        self.voters = [
            f"{name}@{self._host(name)}:{ports[3 * at + 1]}"
            for at, name in enumerate(names[:voters])
        ]
        super().__init__({})
        self.disks = {
            name: FaultyDisk(folder / f"{name}-faults", folder / f"{name}-data") for name in names
        }
        for at, name in enumerate(names):
            self._write(name, ports[3 * at : 3 * at + 3], settings)

    def _host(self, name: str) -> str:
        return self._network.host(name) if self._network else "127.0.0.1"

    def _write(
        self, name: str, ports: list[int], settings: Mapping[str, Mapping[str, Any]]
    ) -> None:
        certificates, host = self.folder / "certificates", self._host(name)
        config: dict[str, dict[str, Any]] = {
            "node": {"name": name, "data_dir": str(self.folder / f"{name}-data")},
            "http": {"host": host, "port": ports[0]},
            "auth": {"mode": "required", "bootstrap_admin_key_file": str(self.folder / "key")},
            "cluster": {
                "enabled": True, "voters": self.voters, "bootstrap": True,
                "write_routing": "proxy",
                "ca_file": str(certificates / "ca.pem"),
                "cert_file": str(certificates / f"{name}.pem"),
                "key_file": str(certificates / f"{name}.key"),
            },
            "raft": {"host": host, "port": ports[1]},
            "replication": {"host": host, "port": ports[2]},
            "engine": {"memory_limit": "2GiB", "wal_file": "1MiB"},
            "log": {"format": "json"},
        }  # fmt: skip
        for section, values in settings.items():
            config.setdefault(section, {}).update(values)
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(config))
        wrapper = self._network.wrapper(name) if self._network else ()
        program = [str(FAULTY_NODE), str(self.disks[name].folder)] if self._faulty else None
        self.nodes[name] = Process(
            name, path, f"http://{host}:{ports[0]}", wrapper, program or ("-m", "nearql")
        )

    def empty_disk(self, name: str) -> None:
        """A stopped node gets an empty disk, and the token with which that is let in."""
        data, token = self.folder / f"{name}-data", self.folder / f"{name}-token"
        for child in data.iterdir():
            shutil.rmtree(child) if child.is_dir() else child.unlink()

        def given() -> bool:
            for node in self.running():
                status, told = node.request("POST", "/v1/cluster/tokens", {})
                if status == 200:
                    token.write_text(told["token"])
                    token.chmod(0o600)
                    return True
            return False

        wait_for(given, "a token", PATIENCE_S)
        config = yaml.safe_load(self.nodes[name].config.read_text())
        config["cluster"]["join_token_file"] = str(token)
        self.nodes[name].config.write_text(yaml.safe_dump(config))


@contextlib.contextmanager
def cluster(folder: Path, **settings: Mapping[str, Any]) -> Iterator[Processes]:
    """A started cluster of three, ended at the end."""
    processes = Processes(folder, 3, voters=3, network=None, faulty=False, **settings)
    try:
        processes.start()
        yield processes
    finally:
        processes.stop()
