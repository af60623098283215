"""`nearql cluster certs`: a private authority and certificates for nodes that have none."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nearql.cluster.certificates import make_certificates
from nearql.engine.errors import NearQLError

EXAMPLES = """examples:
  nearql cluster certs --out certs n1 n2 n3     certs/ca.pem, certs/n1.pem, certs/n1.key, ...
  nearql cluster certs --out certs n4           one more, by the same authority
"""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = argparse.ArgumentParser(
        prog="nearql cluster certs",
        description="Make a private authority, and one certificate per node name.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the files go")
    p.add_argument("nodes", nargs="+", metavar="NAME", help="node names, as in node.name")
    return p


def main(argv: list[str]) -> int:
    """0 once the files are written, 1 where they can't be, 2 for wrong usage."""
    arguments = parser().parse_args(argv)
    try:
        made = make_certificates(arguments.out, arguments.nodes)
    except (NearQLError, OSError) as error:
        reason = error.detail if isinstance(error, NearQLError) else str(error)
        print(f"nearql cluster certs: {reason}", file=sys.stderr)
        return 1
    for path in made:
        print(path)
    print(
        f"Give each node its own .pem and .key, and {arguments.out / 'ca.pem'}. Keep "
        f"{arguments.out / 'ca.key'} off the nodes: it makes more.",
        file=sys.stderr,
    )
    return 0
