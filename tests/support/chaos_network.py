"""Three machines in one: network namespaces joined by a bridge, whose links can be cut one way.

Needs root, `ip` and `iptables`. Names are of this process, so that runs do not meet.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator


def possible() -> bool:
    """Whether this user and machine can make namespaces."""
    if os.geteuid() != 0 or not (shutil.which("ip") and shutil.which("iptables")):
        return False
    name = f"nq{os.getpid()}probe"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return made.returncode == 0


class Network:
    """Hosts by node name; `wrapper` runs a command inside one."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = list(names)
        self._tag = f"q{os.getpid() % 100_000}"
        self._subnet = f"10.{77 + os.getpid() % 100}.{os.getpid() // 100 % 250}"

    def host(self, name: str) -> str:
        """A node's address."""
        return f"{self._subnet}.{self.names.index(name) + 1}"

    def wrapper(self, name: str) -> list[str]:
        """What goes before a command to run it on a node's machine."""
        return ["ip", "netns", "exec", self._namespace(name)]

    def make(self) -> None:
        """Bridge, namespaces, and a way in for clients."""
        bridge = f"{self._tag}br"
        _ip("link", "add", bridge, "type", "bridge")
        _ip("addr", "add", f"{self._subnet}.254/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for at, name in enumerate(self.names):
            space, outer = self._namespace(name), f"{self._tag}o{at}"
            _ip("netns", "add", space)
            _ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("link", "set", outer, "master", bridge, "up")
            _ip("-n", space, "addr", "add", f"{self.host(name)}/24", "dev", "eth0")
            _ip("-n", space, "link", "set", "eth0", "up")
            _ip("-n", space, "link", "set", "lo", "up")

    def remove(self) -> None:
        """Everything that `make` made."""
        for name in self.names:
            _ip("netns", "del", self._namespace(name), check=False)
        _ip("link", "del", f"{self._tag}br", check=False)

    def cut(self, sender: str, receiver: str) -> None:
        """Nothing passes from one to the other, until `heal`."""
        self._tables(receiver, "-A", "INPUT", "-s", self.host(sender), "-j", "DROP")

    def lose(self, sender: str, receiver: str, share: float) -> None:
        """A share of the packets is lost."""
        chance = ["-m", "statistic", "--mode", "random", "--probability", f"{share:.2f}"]
        self._tables(receiver, "-A", "INPUT", "-s", self.host(sender), *chance, "-j", "DROP")

    def heal(self) -> None:
        """Everything passes."""
        for name in self.names:
            self._tables(name, "-F", "INPUT")

    def _tables(self, name: str, *arguments: str) -> None:
        _run([*self.wrapper(name), "iptables", "-w", *arguments])

    def _namespace(self, name: str) -> str:
        return f"{self._tag}{name}"


@contextlib.contextmanager
def network(names: Iterable[str]) -> Iterator[Network]:
    """A network, removed at the end."""
    made = Network(names)
    try:
        made.make()
        yield made
    finally:
        made.remove()


def _ip(*arguments: str, check: bool = True) -> None:
    _run(["ip", *arguments], check=check)


def _run(command: list[str], *, check: bool = True) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
