"""Side by side with what a user would pick instead.

    python3 dev.py bench compare --data debian:FOLDER [--system nearql --system zvec ...] [--quick]

Every system lives in a process of its own and is loaded, built and tuned there; then all of them
are measured in turn (A B C, C B A, ...), so that a busy minute of the machine falls on each. For
every filter the effort is the least of the system's ladder whose recall@10 over the queries is
--recall; a system that reaches it nowhere is reported with its best recall and no rate. Clients
are threads of the system's process; each searches and fetches ids and names, queries in a row.
Results go to benchmarks/results/MACHINE/COMMIT-DATA.json, where --out says so.
"""

from __future__ import annotations

from ann.runner import main

if __name__ == "__main__":
    main(__doc__)
