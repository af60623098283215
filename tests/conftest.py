"""What holds for every test: a property holds however slow the machine is that checks it, and the
same examples are tried in each run, so that a gate tells what a change has broken and not what
chance has found. `NEARQL_FRESH_EXAMPLES=1` tries others.
"""

from __future__ import annotations

import os

from hypothesis import settings

_FRESH = os.environ.get("NEARQL_FRESH_EXAMPLES") == "1"

settings.register_profile("nearql", deadline=None, derandomize=not _FRESH, print_blob=True)
settings.load_profile("nearql")
