"""Three machines in one: network namespaces joined by a bridge, whose links can be cut one way.

Needs root, `ip`, `tc` and `iptables`. Names are of this process, so that runs do not meet. With
`names` the machines ask a name server of the test's, which knows each as `<name>.test`, and `move`
gives a machine another address, as Kubernetes does a pod that it makes anew.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from support.name_server import NameServer

DOMAIN = "test"
_RESOLV = Path("/etc/resolv.conf")
_PER_NAMESPACE = Path("/etc/netns")  # `ip netns exec` puts what is below over /etc
_CLONE_NEWNS, _CLONE_NEWNET = 0x20000, 0x40000000
_MS_BIND, _MS_PRIVATE_REC = 4096, 0x44000
_T = TypeVar("_T")
_SERIALS = itertools.cycle("abcdefghijklmnopqrstuvwxyz")


def possible() -> bool:
    """Whether this user and machine can make namespaces."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "iptables", "tc"))):
        return False
    name = f"nq{os.getpid()}probe"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return made.returncode == 0


class Network:
    """Hosts by node name; `wrapper` runs a command inside one, and `on` a function."""

    def __init__(self, names: Iterable[str], *, resolving: bool = False) -> None:
        self.names = list(names)
        self._numbers = {name: at for at, name in enumerate(self.names, 1)}
        self._resolving = resolving
        self.resolver: NameServer | None = None
        self._tag = f"q{os.getpid() % 100_000}{next(_SERIALS)}"  # a removed one may linger a moment
        self._subnet = f"10.{77 + os.getpid() % 100}.{os.getpid() // 100 % 250}"

    def host(self, name: str) -> str:
        """A node's address."""
        return f"{self._subnet}.{self._numbers[name]}"

    @property
    def resolver_address(self) -> str:
        """Of the name server, and of whoever reaches the machines from outside."""
        return f"{self._subnet}.254"

    def full_name(self, name: str) -> str:
        """What the name server knows a node as."""
        return f"{name}.{DOMAIN}"

    def wrapper(self, name: str) -> list[str]:
        """What goes before a command to run it on a node's machine."""
        return ["ip", "netns", "exec", self._namespace(name)]

    def make(self) -> None:
        """Bridge, namespaces, and a way in for clients."""
        bridge = f"{self._tag}br"
        _ip("link", "add", bridge, "type", "bridge")
        _ip("addr", "add", f"{self.resolver_address}/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for at, name in enumerate(self.names):
            space, outer = self._namespace(name), f"{self._tag}o{at}"
            _ip("netns", "add", space)
            _ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("link", "set", outer, "master", bridge, "up")
            _ip("-n", space, "addr", "add", f"{self.host(name)}/24", "dev", "eth0")
            _ip("-n", space, "link", "set", "eth0", "up")
            _ip("-n", space, "link", "set", "lo", "up")
        if self._resolving:
            self._resolve()

    def _resolve(self) -> None:
        self.resolver = NameServer(self.resolver_address)
        for name in self.names:
            self.resolver.addresses[self.full_name(name)] = self.host(name)
            folder = _PER_NAMESPACE / self._namespace(name)
            folder.mkdir(parents=True)
            (folder / "resolv.conf").write_text(
                f"nameserver {self.resolver_address}\noptions timeout:5 attempts:1\n"
            )

    def remove(self) -> None:
        """Everything that `make` made."""
        if self.resolver is not None:
            self.resolver.close()
        for at, name in enumerate(self.names):
            _ip("link", "del", f"{self._tag}o{at}", check=False)
            shutil.rmtree(_PER_NAMESPACE / self._namespace(name), ignore_errors=True)
            _ip("netns", "del", self._namespace(name), check=False)
        _ip("link", "del", f"{self._tag}br", check=False)

    def move(self, name: str) -> None:
        """Another address for a machine; nobody is at the old one any more."""
        space, old = self._namespace(name), self.host(name)
        self._numbers[name] = max(self._numbers.values()) + 1
        _ip("-n", space, "addr", "del", f"{old}/24", "dev", "eth0")
        _ip("-n", space, "addr", "add", f"{self.host(name)}/24", "dev", "eth0")
        if self.resolver is not None:
            self.resolver.addresses[self.full_name(name)] = self.host(name)

    def on(self, name: str, function: Callable[[], _T]) -> _T:
        """Call a function on a node's machine; threads and processes that it starts stay there."""
        done: list[_T] = []
        failed: list[BaseException] = []

        def run() -> None:
            try:
                self._enter(name)
                done.append(function())
            except BaseException as error:  # noqa: BLE001  raised where it was called
                failed.append(error)

        thread = threading.Thread(target=run, name=f"on-{name}")
        thread.start()
        thread.join()
        if failed:
            raise failed[0]
        return done[0]

    def _enter(self, name: str) -> None:
        """Move this thread, for its whole life."""
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f"/run/netns/{self._namespace(name)}", "rb") as space:
            _checked(libc.setns(space.fileno(), _CLONE_NEWNET))
        if self._resolving:
            _checked(libc.unshare(_CLONE_NEWNS))
            _checked(libc.mount(b"none", b"/", None, _MS_PRIVATE_REC, None))
            ours = bytes(_PER_NAMESPACE / self._namespace(name) / "resolv.conf")
            _checked(libc.mount(ours, bytes(_RESOLV), None, _MS_BIND, None))

    def cut(self, sender: str, receiver: str) -> None:
        """Nothing passes from one to the other, until `heal`."""
        self._tables(receiver, "-A", "INPUT", "-s", self.host(sender), "-j", "DROP")

    def lose(self, sender: str, receiver: str, share: float) -> None:
        """A share of the packets is lost."""
        of = ["-A", "INPUT", "-s", self.host(sender)]
        self._tables(receiver, *of, *_chance(share), "-j", "DROP")

    def slow_down(self, name: str) -> None:
        """What this node sends queues behind 1 Mbit/s, up to 200 ms; the rest is lost."""
        bucket = ["tbf", "rate", "1mbit", "burst", "16kbit", "latency", "200ms"]
        self._control(name, "qdisc", "replace", "dev", "eth0", "root", *bucket)

    def repeat(self, sender: str, receiver: str, share: float) -> None:
        """A share of the packets arrives twice."""
        to = ["-t", "mangle", "-A", "POSTROUTING", "-d", self.host(receiver)]
        twice = ["-j", "TEE", "--gateway", self.host(receiver)]
        self._tables(sender, *to, *_chance(share), *twice)

    def reorder(self, name: str, share: float) -> None:
        """A share of what this node sends waits in a slow queue, up to a quarter of a second, and
        others overtake it.
        """
        side = ["rate", "200kbit", "ceil", "200kbit", "burst", "1600", "cburst", "1600"]
        self._control(name, "qdisc", "replace", "dev", "eth0", "root", "handle", "1:", "htb")
        self._control(
            name, "class", "add", "dev", "eth0", "parent", "1:", "classid", "1:2", "htb", *side
        )
        self._control(name, "qdisc", "add", "dev", "eth0", "parent", "1:2", "pfifo", "limit", "4")
        aside = ["-j", "CLASSIFY", "--set-class", "1:2"]
        self._tables(name, "-t", "mangle", "-A", "POSTROUTING", *_chance(share), *aside)

    def heal(self) -> None:
        """Everything passes."""
        for name in self.names:
            self._tables(name, "-F", "INPUT")
            self._tables(name, "-t", "mangle", "-F", "POSTROUTING")
            wide = ["tc", "qdisc", "del", "dev", "eth0", "root"]
            _run([*self.wrapper(name), *wide], check=False)  # where it was slow

    def _control(self, name: str, *arguments: str) -> None:
        _run([*self.wrapper(name), "tc", *arguments])

    def _tables(self, name: str, *arguments: str) -> None:
        _run([*self.wrapper(name), "iptables", "-w", *arguments])

    def _namespace(self, name: str) -> str:
        return f"{self._tag}{name}"


@contextlib.contextmanager
def network(names: Iterable[str], *, resolving: bool = False) -> Iterator[Network]:
    """A network, removed at the end. resolving: with a name server."""
    made = Network(names, resolving=resolving)
    try:
        made.make()
        yield made
    finally:
        made.remove()


def _chance(share: float) -> list[str]:
    """Of iptables: a rule that holds for a share of the packets."""
    return ["-m", "statistic", "--mode", "random", "--probability", f"{share:.2f}"]


def _checked(code: int) -> None:
    if code:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _ip(*arguments: str, check: bool = True) -> None:
    _run(["ip", *arguments], check=check)


def _run(command: list[str], *, check: bool = True) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
