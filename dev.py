#!/usr/bin/env python3
"""One command per job, from a bare checkout: `python3 dev.py test`.

Needs Python 3.11+ and pip, nothing else: no make, no uv, no python3-venv package. The first job
makes `.venv` from the hash-locked `requirements.lock`; later ones start at once until it changes.
"""

from __future__ import annotations  # an older Python gets as far as our message

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / "bin"
PYTHON = BIN / "python"
LOCK = ROOT / "requirements.lock"
SOURCE_LOCK = ROOT / "source.lock"  # packages that have no wheel
PACKAGES = ["src/nearql", "client", "engine", "query", "cluster", "server"]
STAMP = VENV / ".complete"  # written last: a set-up that was broken off never counts as done

NO_PIP = """\
dev.py needs pip, and this Python has neither pip nor ensurepip.
On Debian or Ubuntu:  apt-get install python3-pip      then run the same command again."""
NO_PACKAGES = """\
dev.py: pip could not install the pinned packages (its message is above).
No network? Point pip at a mirror or a folder of wheels (PIP_INDEX_URL, PIP_FIND_LINKS) and run the
same command again; nothing half-made is kept."""


# ---- The environment -----------------------------------------------------------------


def ensure_environment() -> None:
    """Make or update `.venv`; does nothing when it already matches the lock."""
    if sys.version_info < (3, 11):
        sys.exit(f"nearql needs Python 3.11 or newer; this is {sys.version.split()[0]}")
    wanted = fingerprint()
    with one_at_a_time():
        if read_stamp() != wanted:
            set_up(wanted)


def fingerprint() -> dict[str, str]:
    """What the environment depends on: the interpreter, the lock, and our own metadata."""
    import tomllib  # Python 3.11+, so not before the version check

    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    ours = [
        pyproject["project"],
        pyproject["build-system"],
        pyproject["tool"]["hatch"],
        str(ROOT),
    ]
    content = (
        LOCK.read_bytes() + SOURCE_LOCK.read_bytes() + json.dumps(ours, sort_keys=True).encode()
    )
    return {"python": sys.version, "content": hashlib.sha256(content).hexdigest()}


def read_stamp() -> dict[str, str]:
    """The fingerprint of the finished environment; empty where there is none."""
    try:
        stamp = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}
    return stamp if PYTHON.exists() else {}


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Two jobs started together must not both write `.venv`."""
    with open(ROOT / "pyproject.toml") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def set_up(wanted: dict[str, str]) -> None:
    """Install the lock and this tree. The same interpreter's environment is updated in place."""
    reuse = read_stamp().get("python") == wanted["python"]
    say("updating .venv" if reuse else "making .venv from requirements.lock (about a minute)")
    STAMP.unlink(missing_ok=True)
    pip = pip_command(reuse)
    install(*pip, "--require-hashes", "--only-binary=:all:", "-r", str(LOCK))
    install(*pip, *FROM_SOURCE, "-r", str(SOURCE_LOCK))
    install(*pip, "--no-deps", "--no-build-isolation", "-e", str(ROOT))
    compile_tree()
    STAMP.write_text(json.dumps(wanted))


# The archive's digest is pinned and it is built by the setuptools of requirements.lock, never by
# one that pip would fetch beside the lock.
FROM_SOURCE = ["--require-hashes", "--no-deps", "--no-build-isolation", "--use-pep517"]


def compile_tree() -> None:
    """pip compiles what it installs, but not this tree, which it only links to.

    Where PYTHONDONTWRITEBYTECODE is set, each start would compile it anew: a quarter of a second.
    """
    subprocess.run([str(PYTHON), "-m", "compileall", "-q", *PACKAGES], cwd=ROOT, check=True)


def pip_command(reuse: bool) -> list[str]:
    """A pip that installs into `.venv`: its own, or ours from outside if ensurepip is missing."""
    with_pip = importlib.util.find_spec("ensurepip") is not None
    if not with_pip and importlib.util.find_spec("pip") is None:
        sys.exit(NO_PIP)
    if not reuse:
        venv.create(VENV, with_pip=with_pip, clear=True, symlinks=True)
    if with_pip:
        return [str(PYTHON), "-m", "pip"]
    return [sys.executable, "-m", "pip", "--python", str(PYTHON)]


def install(*command: str) -> None:
    """Run pip with its talk on stderr, so that stdout stays the job's own."""
    pip_end = command.index("pip") + 1 + 2 * ("--python" in command)
    options = ["install", "--quiet", "--no-input", "--disable-pip-version-check"]
    argv = [*command[:pip_end], *options, *command[pip_end:]]
    if subprocess.run(argv, stdout=sys.stderr).returncode != 0:
        sys.exit(NO_PACKAGES)


def say(text: str) -> None:
    """Progress goes to stderr."""
    print(f"dev.py: {text}", file=sys.stderr, flush=True)


# ---- The jobs ------------------------------------------------------------------------


def become(*command: str) -> None:
    """Replace this process by a program of the environment: its signals and exit code are ours."""
    os.environ["PATH"] = f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    os.chdir(ROOT)
    sys.stdout.flush()
    os.execv(BIN / command[0], [str(BIN / command[0]), *command[1:]])


def job_env(_args: list[str]) -> None:
    """Make the environment; the last line printed is the folder of its executables."""
    print(BIN)


def job_test(args: list[str]) -> None:
    """Run the fast tests on all cores; arguments go to pytest (`-m slow`, `-k name`, a path)."""
    become("python", "-m", "pytest", "-n", str(processes()), "--dist", "loadfile", *args)


def processes() -> int:
    """One pytest per core that this process may use, at most 8: each takes up to 2 GiB.

    `-n 0` among the arguments, which come later, runs everything in one process (for `--pdb`).
    """
    usable = getattr(os, "sched_getaffinity", None)  # Linux only
    return min(len(usable(0)) if usable else os.cpu_count() or 1, 8)


def job_demo(args: list[str]) -> None:
    """Start a server on the shipped data set and run sample queries."""
    become("nearql", "demo", *args)


def job_bench(args: list[str]) -> None:
    """Run a benchmark by name; options alone go to `compare`; without anything, list them."""
    found = {path.stem: path for path in sorted((ROOT / "benchmarks").glob("[a-z]*.py"))}
    if args and args[0].startswith("--"):
        args = ["compare", *args]
    if not args or args[0] not in found:
        sys.exit(f"usage: python3 dev.py bench {{{'|'.join(found)}}} [arguments]")
    become("python", str(found[args[0]]), *args[1:])


def job_simulate_metadata(args: list[str]) -> None:
    """Run schedules of the metadata simulator (`--seed`, `--seconds`, `--record`)."""
    os.environ["PYTHONHASHSEED"] = "0"
    become("python", "tests/simulation/metadata.py", *args)


def job_simulate(args: list[str]) -> None:
    """Run schedules of the replication simulator: `--seed N`, or `--seconds` of fresh seeds."""
    become("python", "tests/simulation/shards.py", *args)


def job_chaos(args: list[str]) -> None:
    """Faults on three real processes (`--seed`, `--runs`, `--seconds`, `--faults`, `--record`)."""
    become("python", "tests/chaos/cluster.py", *args)


def job_soak(args: list[str]) -> None:
    """Work on three real processes for two hours, a fault each minute (`--seconds`, `--seed`)."""
    become("python", "tests/chaos/soak.py", *args)


def job_fuzz(args: list[str]) -> None:
    """Compare random statements with a naive executor (`--seed`, `--statements`, `--record`)."""
    become("python", str(ROOT / "tests" / "fuzz.py"), *args)


def job_fuzz_text(args: list[str]) -> None:
    """Send wrong SQL text for ten minutes (`--seconds`, `--seed`): an answer or a clear error."""
    become("python", str(ROOT / "tests" / "fuzz_text.py"), *args)


def job_langchain(args: list[str]) -> None:
    """Run LangChain's own tests of our `VectorStore`, in an environment of their own."""
    python = LANGCHAIN / "bin" / "python"
    stamp, wanted = LANGCHAIN / ".complete", json.dumps(fingerprint()) + LANGCHAIN_LOCK.read_text()
    if not stamp.exists() or stamp.read_text() != wanted:
        say("making build/langchain from .ci/langchain.lock")
        venv.create(LANGCHAIN, with_pip=False, clear=True, symlinks=True)
        command = pip_command(True)
        pip = [*command[: command.index("pip") + 1], "--python", str(python)]
        install(*pip, "--require-hashes", "--only-binary=:all:", "-r", str(LANGCHAIN_LOCK))
        (packages,) = LANGCHAIN.glob("lib/*/site-packages")
        (ours,) = VENV.glob("lib/*/site-packages")  # the rest, this tree included, is .venv's
        (packages / "ours.pth").write_text(f"import site; site.addsitedir({str(ours)!r})\n")
        stamp.write_text(wanted)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    tests = ROOT / "tests" / "langchain_store"
    os.chdir(ROOT)
    options = ["-c", str(tests / "standard.ini"), "-p", "no:cacheprovider"]
    os.execv(python, [str(python), "-m", "pytest", *options, str(tests), *args])


LANGCHAIN = ROOT / "build" / "langchain"
LANGCHAIN_LOCK = ROOT / ".ci" / "langchain.lock"


def job_vendor(args: list[str]) -> None:
    """Bundle the dashboard's editor of its pinned packages; `--check` only compares. Needs npm."""
    npm = shutil.which("npm") or sys.exit("dev.py vendor needs npm on PATH (apt-get install npm)")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("package.json", "package-lock.json", "entry.js"):
            shutil.copy(VENDOR / name, folder)
        for command in (
            [npm, "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"],
            [npm, "exec", "--silent", "--", "esbuild", "entry.js", *BUNDLE],
        ):
            subprocess.run(command, cwd=folder, check=True)
        made = (Path(folder) / "codemirror.js").read_bytes()
    if "--check" not in args:
        (VENDOR / "codemirror.js").write_bytes(made)
    elif made != (VENDOR / "codemirror.js").read_bytes():
        sys.exit("dev.py: codemirror.js is not what its packages make: run python3 dev.py vendor")


VENDOR = ROOT / "server" / "dashboard" / "vendor"
BUNDLE = [
    "--bundle", "--format=esm", "--minify", "--legal-comments=none", "--log-level=error",
    "--outfile=codemirror.js",
]  # fmt: skip


def job_containers(_args: list[str]) -> None:
    """Build the image, run it, and three of it behind a balancer: needs root, buildah, podman."""
    missing = [name for name in CONTAINER_TOOLS if shutil.which(name) is None]
    if missing:
        sys.exit(f"dev.py containers needs {', '.join(missing)} on PATH: {CONTAINER_PACKAGES}")
    for script in ("docker/test.sh", "docker/test-ha.sh"):
        say(script)
        if subprocess.run([script], cwd=ROOT).returncode:
            sys.exit(f"dev.py: failed: {script}")


CONTAINER_TOOLS = ["buildah", "podman", "podman-compose", "runc", "mmdebstrap", "curl"]
CONTAINER_PACKAGES = (
    "apt-get install buildah podman runc mmdebstrap curl containernetworking-plugins "
    "golang-github-containernetworking-plugin-dnsname; pip install podman-compose"
)


def job_python(args: list[str]) -> None:
    """Run the environment's Python."""
    become("python", *args)


def job_lint(_args: list[str]) -> None:
    """Every static check; all of them run, and one failure fails the job."""
    checks = [
        ["ruff", "check"],
        ["ruff", "format", "--check"],
        ["mypy"],
        ["lint-imports", "--no-logo", "--no-cache"],
        ["codespell"],
    ]
    failed = [" ".join(check) for check in checks if not passes(check)]
    sys.exit(f"dev.py: failed: {', '.join(failed)}" if failed else 0)


def passes(check: list[str]) -> bool:
    """Run one check of the environment from the repository's root."""
    say(" ".join(check))
    return subprocess.run([str(BIN / check[0]), *check[1:]], cwd=ROOT).returncode == 0


def job_lock(_args: list[str]) -> None:
    """Pin the newest allowed versions again, in every lock. Needs uv."""
    uv = shutil.which("uv") or sys.exit("dev.py lock needs uv on PATH (pip install uv)")
    for target, sources in LOCKS.items():
        say(f"resolving {target}")
        subprocess.run([uv, *COMPILE, *sources, "--output-file", target], cwd=ROOT, check=True)


# One lock serves Python 3.11 to 3.14 (markers). It names no index and no host: any mirror will do.
COMPILE = [
    "pip", "compile", "--quiet", "--upgrade", "--universal", "--python-version", "3.11",
    "--generate-hashes", "--no-emit-index-url", "--no-emit-find-links",
    "--custom-compile-command", "python3 dev.py lock",
]  # fmt: skip

SERVER = ["pyproject.toml", "--extra", "server"]
WHEELS = ["--no-emit-package", "pysyncobj"]  # what source.lock holds is not in the others
LOCKS = {
    "requirements.lock": [
        *SERVER, *WHEELS, "--group", "test", "--group", "lint", "--group", "build",
    ],
    "source.lock": ["--group", "source"],
    "docker/requirements.lock": [*SERVER, *WHEELS],
    "docker/requirements-gpu.lock": [
        "pyproject.toml", "--extra", "gpu", *WHEELS, "--constraint", "docker/requirements.lock",
    ],
    "docker/build.lock": ["--group", "build"],
    ".ci/requirements.lock": ["--group", "ci"],
    ".ci/langchain.lock": ["--group", "langchain", "--constraint", "requirements.lock"],
}  # fmt: skip

JOBS: dict[str, Callable[[list[str]], None]] = {
    "env": job_env,
    "test": job_test,
    "lint": job_lint,
    "langchain": job_langchain,
    "demo": job_demo,
    "bench": job_bench,
    "chaos": job_chaos,
    "containers": job_containers,
    "fuzz": job_fuzz,
    "fuzz-text": job_fuzz_text,
    "simulate": job_simulate,
    "simulate-metadata": job_simulate_metadata,
    "soak": job_soak,
    "vendor": job_vendor,
    "python": job_python,
    "lock": job_lock,
}


def main(argv: list[str]) -> None:
    """Set up the environment where the job needs it, then do the job."""
    if not argv or argv[0] not in JOBS:
        width = max(map(len, JOBS))
        lines = [
            f"  {name:{width}}  {str(job.__doc__).splitlines()[0]}" for name, job in JOBS.items()
        ]
        sys.exit("\n".join(["usage: python3 dev.py JOB [arguments]", *lines]))
    if argv[0] != "lock":
        ensure_environment()
    JOBS[argv[0]](argv[1:])


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
