"""Fixtures of the client's tests."""

from __future__ import annotations

import pytest

from support.clients import FORMS, Connect, connector


@pytest.fixture(params=FORMS)
def connect(request: pytest.FixtureRequest) -> Connect:
    """`nearql.connect`, blocking and asyncio."""
    return connector(request.param)
