"""Wrong arguments of `connect` are refused at once, and the message says what would be right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nearql.client import errors
from support.clients import Connect

URL = "http://127.0.0.1:1"


@pytest.mark.parametrize("target", ["", " ", 5, None, [], ["http://h", 5], b"http://h", {}, ()])
def test_what_is_no_target_is_told(connect: Connect, target: Any) -> None:
    with pytest.raises(errors.UsageError, match="connect takes a node's URL .* a directory"):
        connect(target)


@pytest.mark.parametrize(
    "target",
    ["http://", "http://h:99999", "http://h/?x", "http://h,http://", "http://[::1", ["./x", URL]],
)
def test_what_is_no_address_is_told(connect: Connect, target: Any) -> None:
    with pytest.raises(errors.UsageError, match="address"):
        connect(target)


@pytest.mark.parametrize("target", ["localhost:8470", "ftp://h", "postgres://h/d"])
def test_what_is_no_directory_is_told(connect: Connect, target: str) -> None:
    with pytest.raises(errors.UsageError, match="is no directory; for a node write http"):
        connect(target)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"timeout": 0}, "timeout is 0; it must be a number of seconds above 0"),
        ({"timeout": -1.5}, "timeout is -1.5"),
        ({"timeout": "5"}, "timeout is '5'"),
        ({"timeout": None}, "timeout is None"),
        ({"timeout": True}, "timeout is True"),
        ({"timeout": float("inf")}, "timeout is inf"),
        ({"connect_timeout": 0}, "connect_timeout is 0"),
        ({"retries": -1}, "retries is -1; it must be a whole number, at least 0"),
        ({"retries": 1.5}, "retries is 1.5"),
        ({"max_connections": 0}, "max_connections is 0; it must be a whole number, at least 1"),
        ({"token": b"key"}, "token is of type bytes; it is text"),
        ({"token": ""}, "token is empty"),
        ({"token": "key\n"}, r"read it with \.strip"),
        ({"settings": ["target_recall"]}, "settings is a dict such as"),
        ({"settings": {"target_recall": object()}}, "The setting target_recall is of type object"),
    ],
)
def test_options_that_cannot_be(connect: Connect, options: dict[str, Any], said: str) -> None:
    with pytest.raises(errors.UsageError, match=said):
        connect(URL, **options)


def test_the_same_in_this_process(connect: Connect, tmp_path: Path) -> None:
    with pytest.raises(errors.UsageError, match="timeout is 0"):
        connect(tmp_path / "data", timeout=0)
    with connect(tmp_path / "data"):
        pass  # the directory was let go of


def test_half_a_character_is_told(connect: Connect) -> None:
    """What `errors="surrogateescape"` leaves in text: no encoding of it can be sent."""
    with connect(URL) as db, pytest.raises(errors.UsageError, match="A statement is no Unicode"):
        db.sql("SELECT '\ud800'")
