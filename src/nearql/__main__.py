"""The command `nearql`: finds the module of a sub-command and hands it the arguments.

A command is a module with `main(argv: list[str]) -> int`. It is imported only when it is called, so
that `nearql sql` never loads the server and works where only the client is installed.
"""

import importlib
import sys
from importlib.util import find_spec
from typing import NamedTuple


class Command(NamedTuple):
    """Where a sub-command lives, and one line that teaches it."""

    module: str
    example: str
    purpose: str


COMMANDS = {
    "demo": Command("nearql.client.cli.demo", "nearql demo", "try it on real data"),
    "serve": Command(
        "nearql.server.cli.serve",
        "nearql serve --data-dir ./nearql-data",
        "start a node",
    ),
    "sql": Command(
        "nearql.client.cli.sql",
        'nearql sql "SELECT 1"',
        "run a statement; with none, a shell",
    ),
    "load": Command("nearql.client.cli.load", "nearql load docs docs.parquet", "load a file"),
    "import": Command(
        "nearql.client.cli.imports",
        "nearql import postgres://app@host/shop items",
        "copy a table of pgvector or Qdrant",
    ),
    "cluster": Command(
        "nearql.client.cli.cluster", "nearql cluster status", "watch and steer nodes"
    ),
    "token": Command("nearql.client.cli.token", "nearql token create app", "make access keys"),
    "backup": Command("nearql.client.cli.backup", "nearql backup ./copy", "copy all tables"),
    "restore": Command("nearql.client.cli.restore", "nearql restore ./copy", "bring tables back"),
    "doctor": Command("nearql.server.cli.doctor", "nearql doctor", "check devices, disk and ports"),
    "bench": Command("nearql.client.cli.bench", "nearql bench", "measure speed and recall here"),
}

# Two words that another package than their first word's belongs to: certificates are the server's.
SUBCOMMANDS = {
    ("cluster", "certs"): Command(
        "nearql.server.cli.certs",
        "nearql cluster certs --out certs n1 n2 n3",
        "make certificates for nodes",
    ),
    ("cluster", "init"): Command(
        "nearql.server.cli.init",
        "nearql cluster init --nodes 3 --out cluster",
        "configure a cluster on this machine",
    ),
}


def main(argv: list[str] | None = None) -> int:
    """Run `nearql ARGV` and return its exit code: 0 done, 1 the request failed, 2 wrong usage."""
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help", "help"):
        print(usage())
        return 0
    if name in ("-V", "--version"):
        from nearql import __version__

        print(f"nearql {__version__}")
        return 0
    if name not in COMMANDS:
        print(f"nearql: no command {name!r}\n\n{usage()}", file=sys.stderr)
        return 2
    if rest and (name, rest[0]) in SUBCOMMANDS:
        return call(SUBCOMMANDS[name, rest[0]].module, name, rest[1:])
    return run(name, rest)


def run(name: str, argv: list[str]) -> int:
    """Import the command's module and call it; an incomplete installation is named, not traced."""
    if not exists(name):
        print(f"nearql: {name} is not part of this version", file=sys.stderr)
        return 2
    return call(COMMANDS[name].module, name, argv)


def call(path: str, name: str, argv: list[str]) -> int:
    """Import a module and call its `main`; a missing extra is named."""
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if (error.name or "nearql").startswith("nearql"):
            raise  # a bug of ours, not a missing extra
        print(
            f"nearql: {name} needs the package {error.name!r}: pip install 'nearql[server]'",
            file=sys.stderr,
        )
        return 2
    code: int = module.main(argv)
    return code


def exists(name: str) -> bool:
    """Whether the command's module is in this installation, found without running it."""
    try:
        return find_spec(COMMANDS[name].module) is not None
    except ModuleNotFoundError:
        return False


def usage() -> str:
    """Help by example, of the commands that are there."""
    lines = [(c.example, c.purpose) for name, c in COMMANDS.items() if exists(name)]
    lines += [(c.example, c.purpose) for c in SUBCOMMANDS.values()]
    lines.append(("nearql COMMAND --help", "all options of a command"))
    width = max(len(example) for example, _ in lines)
    return "\n".join(
        ["NearQL: vector search in SQL.", ""]
        + [f"  {example:{width}}  {purpose}" for example, purpose in lines]
    )


if __name__ == "__main__":
    raise SystemExit(main())
