"""`nearql cluster init`: ready configurations of a cluster on this machine, with certificates."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import yaml

from nearql.cluster.certificates import make_certificates
from nearql.cluster.config import VOTER_COUNTS
from nearql.engine.errors import InvalidRequest, NearQLError

EXAMPLES = """examples:
  nearql cluster init --nodes 3 --out try       try/n1.yaml, try/n2.yaml, try/n3.yaml, certificates
  nearql serve --config try/n1.yaml             and n2 and n3, each in a terminal of its own
"""
FIRST_PORT, PORTS_APART = 8470, 10  # HTTP; Raft and replication use the two ports behind it


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = argparse.ArgumentParser(
        prog="nearql cluster init",
        description="Write the configurations of a cluster whose nodes run on this machine.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--nodes", type=int, default=3, metavar="N", help="1, 3 or 5 (default 3)")
    p.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the files go")
    p.add_argument(
        "--first-port", type=int, default=FIRST_PORT, metavar="PORT",
        help=f"of the first node (default {FIRST_PORT}); the next ones count on by {PORTS_APART}",
    )  # fmt: skip
    return p


def main(argv: list[str]) -> int:
    """0 once the files are written, 1 where they can't be, 2 for wrong usage."""
    arguments = parser().parse_args(argv)
    try:
        made = initialise(arguments.out, arguments.nodes, arguments.first_port)
    except (NearQLError, OSError) as error:
        reason = error.detail if isinstance(error, NearQLError) else str(error)
        print(f"nearql cluster init: {reason}", file=sys.stderr)
        return 1
    for path in made:
        print(f"nearql serve --config {path}")
    return 0


def initialise(folder: Path, nodes: int, first_port: int = FIRST_PORT) -> list[Path]:
    """Write one configuration per node, and their certificates; the configurations.

    Raises:
        InvalidRequest: another number of nodes than can vote, or files that are there already.
    """
    if nodes not in VOTER_COUNTS:
        raise InvalidRequest(f"--nodes {nodes}: 1, 3 or 5 nodes can agree by majority.")
    names = [f"n{number}" for number in range(1, nodes + 1)]
    for name in names:
        if (folder / f"{name}.yaml").exists():
            raise InvalidRequest(f"{folder / name}.yaml is there already; choose another folder.")
    make_certificates(folder, names)
    ports = {name: first_port + PORTS_APART * at for at, name in enumerate(names)}
    voters = [f"{name}@127.0.0.1:{port + 1}" for name, port in ports.items()]
    return [_write(folder, name, port, voters) for name, port in ports.items()]


def _write(folder: Path, name: str, port: int, voters: list[str]) -> Path:
    """Paths are relative: they count from the file's folder."""
    config = {
        "node": {"name": name, "data_dir": f"{name}-data"},
        "http": {"port": port},
        "cluster": {
            "enabled": True, "voters": voters, "bootstrap": True, "ca_file": "ca.pem",
            "cert_file": f"{name}.pem", "key_file": f"{name}.key",
        },
        "raft": {"port": port + 1},
        "replication": {"port": port + 2},
    }  # fmt: skip
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path
