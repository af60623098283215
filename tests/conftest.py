"""What holds for every test: a property holds however slow the machine is that checks it."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("nearql", deadline=None)
settings.load_profile("nearql")
