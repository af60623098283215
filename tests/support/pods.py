"""Pods of a rendered chart as real processes: what a kubelet, a StatefulSet's controller and the
cluster's DNS make of the manifests, and no more than that.

Each pod is `nearql serve` with the container's arguments, environment and mounted volumes, in a
network namespace of its own: it finds others by the names that the headless service publishes, and
a pod that is made again has its volume claim and another address. What is rendered wrongly (a
selector, a port, a path, a name) is wrong here, too.
"""

from __future__ import annotations

import base64
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support.chaos_network import Network
from support.chart import NAMESPACE, ROOT
from support.cluster_processes import PATIENCE_S, Nodes, Process
from support.waiting import wait_for

Objects = dict[tuple[str, str], dict[str, Any]]
_SUFFIX = "svc.cluster.local"
_OF_THE_SYSTEM = ("passwd", "group", "nsswitch.conf", "host.conf", "ld.so.cache", "alternatives")


def pod_names(objects: Objects) -> list[str]:
    """Of all sets, those of each in order."""
    sets = [body for (kind, _), body in sorted(objects.items()) if kind == "StatefulSet"]
    return [f"{s['metadata']['name']}-{n}" for s in sets for n in range(s["spec"]["replicas"])]


def image_environment() -> dict[str, str]:
    """The settings that the image brings."""
    text = (ROOT / "docker" / "Dockerfile").read_text()
    return dict(re.findall(r"^ +(NEARQL_\w+)=([^\s\\]+)", text, re.M))


class Pod(Process):
    """One pod; each start is another life of it. The claim's folder stays."""

    def __init__(self, name: str, objects: Objects, folder: Path, net: Network) -> None:
        """objects: rendered, and Secrets that people make."""
        self.set = objects["StatefulSet", name.rpartition("-")[0]]["spec"]
        self.spec = self.set["template"]["spec"]
        (self.container,) = self.spec["containers"]
        self.labels: dict[str, str] = self.set["template"]["metadata"]["labels"]
        self._objects, self._net, self.folder = objects, net, folder / name
        self.folder.mkdir()
        super().__init__(name, self.folder / "pod.yaml", "")

    def port(self, name: str | int) -> int:
        """A port of the container, by its name."""
        found = {p["name"]: p["containerPort"] for p in self.container["ports"]}
        return name if isinstance(name, int) else int(found[name])

    def start(self) -> None:
        """Make the pod: its volumes, its name's files, the process."""
        self.url = f"http://{self._net.host(self.name)}:{self.port('http')}"
        arguments = [sys.executable, "-m", "nearql", "serve", *self.container.get("args", [])]
        command = ["sh", "-ec", self._mounts() + 'exec "$@"', self.name, *arguments]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._net.wrapper(self.name), *command],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment(),
            )  # fmt: skip

    def ready(self) -> bool:
        """What the readiness probe says."""
        probe = self.container["readinessProbe"]["httpGet"]
        assert self.port(probe["port"]) == self.port("http")
        return self.runs and self.get(probe["path"])[0] == 200

    def end(self) -> int | None:
        """As when it is deleted: SIGTERM, and SIGKILL when its time is over; its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(self.spec["terminationGracePeriodSeconds"])
        except subprocess.TimeoutExpired:
            self._process.kill()
        process, self._process = self._process, None
        return process.wait()

    def _environment(self) -> dict[str, str]:
        """The image's and the container's own, nothing of ours but where Python finds NearQL."""
        found = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "PYTHONPATH": str(ROOT / "src")}
        found |= {"PYTHONDONTWRITEBYTECODE": "1", **image_environment()}
        for one in self.container["env"]:
            value = one.get("value")
            if value is None:
                assert one["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}, one
                value = self.name
            found[one["name"]] = re.sub(r"\$\((\w+)\)", lambda m: found[m[1]], value)
        return found

    def _mounts(self) -> str:
        """A shell's commands: /etc with what a kubelet writes, and the volumes.

        /tmp stays as it is: the interpreter and the tests may lie below it.
        """
        etc, lib = self._fresh("etc"), self._fresh("lib")
        for name in _OF_THE_SYSTEM:
            path = Path("/etc") / name
            if path.is_dir():
                shutil.copytree(path, etc / name, symlinks=True)
            elif path.exists():
                shutil.copy(path, etc / name)
        (etc / "hosts").write_text(
            f"127.0.0.1 localhost\n{self._net.host(self.name)} {self.name}\n"
        )
        server, search = (
            self._net.resolver_address,
            f"{NAMESPACE}.{_SUFFIX} {_SUFFIX} cluster.local",
        )
        (etc / "resolv.conf").write_text(
            f"nameserver {server}\nsearch {search}\noptions ndots:5 timeout:5 attempts:1\n"
        )
        lines = [_bind(etc, "/etc"), _bind(lib, "/var/lib")]
        for mount in self.container["volumeMounts"]:
            if mount["mountPath"] == "/tmp":
                continue
            target = shlex.quote(mount["mountPath"])
            lines += [f"mkdir -p {target}", _bind(self._volume(mount["name"]), mount["mountPath"])]
            if mount.get("readOnly"):
                lines.append(f"mount -o remount,bind,ro {target}")
        return "\n".join([*lines, "cd /var/lib/nearql", ""])

    def _fresh(self, name: str) -> Path:
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def _volume(self, name: str) -> Path:
        """The folder of a volume; a claim's stays over lives."""
        claims = [claim["metadata"]["name"] for claim in self.set["volumeClaimTemplates"]]
        if name in claims:
            claim = self.folder / f"claim-{name}"
            claim.mkdir(exist_ok=True)
            return claim
        (volume,) = (one for one in self.spec["volumes"] if one["name"] == name)
        folder = self._fresh(f"volume-{name}")
        if "secret" in volume:
            self._fill(folder, volume["secret"])
        elif "configMap" in volume:
            texts = self._objects["ConfigMap", volume["configMap"]["name"]]["data"]
            for file, text in texts.items():
                (folder / file).write_text(text)
        else:
            assert volume["emptyDir"] == {}, volume
        return folder

    def _fill(self, folder: Path, wanted: Mapping[str, Any]) -> None:
        found = self._objects.get(("Secret", wanted["secretName"]))
        assert found is not None or wanted.get("optional"), f"no Secret {wanted['secretName']}"
        for file, data in (found or {"data": {}})["data"].items():
            (folder / file).write_bytes(base64.b64decode(data))
            (folder / file).chmod(wanted["defaultMode"])


def _bind(source: Path, target: str) -> str:
    return f"mount --bind {shlex.quote(str(source))} {shlex.quote(target)}"


def secret(files: Mapping[str, str]) -> dict[str, Any]:
    """A Secret that people make by hand."""
    return {
        "data": {name: base64.b64encode(text.encode()).decode() for name, text in files.items()}
    }


class Release(Nodes):
    """All pods of a release. Nothing runs until it is started."""

    def __init__(self, objects: Objects, folder: Path, net: Network) -> None:
        self.pods = {name: Pod(name, objects, folder, net) for name in pod_names(objects)}
        super().__init__(dict(self.pods))
        self.objects, self._net = objects, net

    def create(self, *names: str) -> None:
        """Make these pods at once, as `podManagementPolicy: Parallel` has it; wait until all are
        ready.
        """
        for name in names:
            self.pods[name].start()
            self._publish(name, ready=False)
        for name in names:
            self.wait_ready(name)
            self._publish(name, ready=True)

    def wait_ready(self, name: str) -> None:
        """Wait until its readiness probe passes."""
        pod = self.pods[name]

        def ready() -> bool:
            assert pod.runs, f"{name} ended: {pod.log.read_text()[-3000:]}"
            return pod.ready()

        wait_for(ready, f"{name} ready", PATIENCE_S)

    def delete(self, name: str) -> int | None:
        """Its name goes first, then its process, and its address is nobody's any more."""
        assert self._net.resolver is not None
        for address in self._names(name):
            self._net.resolver.addresses.pop(address, None)
        code = self.pods[name].end()
        self._net.move(name)
        return code

    def replace(self, name: str) -> None:
        """Deleted, and made again by its set: the claim stays, the address does not."""
        assert self.delete(name) == 0
        self.create(name)

    def roll(self, *names: str) -> None:
        """A rolling update of a set: from the highest number, each when the one before is ready."""
        for name in reversed(names):
            self.replace(name)

    def behind(self, service: str) -> list[Process]:
        """Pods that a service sends clients to now."""
        selector = self.objects["Service", service]["spec"]["selector"].items()
        chosen = [pod for pod in self.pods.values() if selector <= pod.labels.items()]
        return [pod for pod in chosen if pod.ready()]

    def running(self) -> list[Process]:
        """Whom clients reach: through the service, so none that is not ready."""
        return self.behind("demo-nearql")

    def _names(self, name: str) -> list[str]:
        """What the DNS knows a pod as, by the services of its set."""
        pod, found = self.pods[name], []
        service = pod.set["serviceName"]
        body = self.objects["Service", service]
        if body["spec"]["selector"].items() <= pod.labels.items():
            found.append(f"{name}.{service}.{NAMESPACE}.{_SUFFIX}")
        return found

    def _publish(self, name: str, *, ready: bool) -> None:
        assert self._net.resolver is not None
        service = self.objects["Service", self.pods[name].set["serviceName"]]["spec"]
        assert service["clusterIP"] == "None"
        if ready or service.get("publishNotReadyAddresses"):
            for address in self._names(name):
                self._net.resolver.addresses[address] = self._net.host(name)
