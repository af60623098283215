"""Users, grants, keys and void tokens in the metadata state machine."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from nearql.cluster.metadata import access as a
from nearql.cluster.metadata import access_commands as c
from nearql.cluster.metadata import state as s
from nearql.cluster.metadata.codec import (
    decode_command,
    encode_command,
    from_plain,
    pack,
    to_plain,
    unpack,
)
from nearql.cluster.metadata.commands import Command


def run(*commands: Command, state: s.Metadata | None = None) -> tuple[s.Metadata, list[str]]:
    """The state after the commands, and each one's code."""
    state, codes = state or s.Metadata(), []
    for command in commands:
        state, result = s.apply(state, command)
        codes.append(result.code)
    return state, codes


def new(kind: type[Command], **members: Any) -> Any:
    """A command with an id of its own."""
    return kind(request_id=uuid.uuid4().hex, **members)


def user(name: str = "ann", role: str = "reader", **members: Any) -> Command:
    return new(c.CreateUser, name=name, role=role, **members)  # type: ignore[no-any-return]


def key(key_id: str = "k1", owner: str = "ann", **members: Any) -> Command:
    members = {"digest": f"d-{key_id}", "created_ms": 1000, **members}
    return new(c.CreateKey, key_id=key_id, user=owner, **members)  # type: ignore[no-any-return]


def with_table(uuid_: str = "t1") -> s.Metadata:
    return s.Metadata(tables={uuid_: None})  # type: ignore[dict-item]


def test_a_user_is_made_once_and_has_a_known_role() -> None:
    state, codes = run(user(), user(), user("bob", "king"))
    assert codes == ["", "duplicate_user", "invalid_role"]
    assert state.access.users == {"ann": a.UserRow("ann", "reader")}


def test_grants_add_up_and_are_taken_back_one_by_one() -> None:
    grant = {"user": "ann", "table_uuid": "t1"}
    state, _ = run(
        user(role="none"),
        new(c.ChangeGrants, granted=("INSERT", "SELECT"), **grant),
        new(c.ChangeGrants, granted=("DELETE",), revoked=("INSERT",), **grant),
        state=with_table(),
    )
    assert state.access.users["ann"].grants == {"t1": ("SELECT", "DELETE")}
    state, _ = run(new(c.ChangeGrants, revoked=("SELECT", "DELETE"), **grant), state=state)
    assert state.access.users["ann"].grants == {}


def test_grants_of_tables_that_are_gone_are_let_go() -> None:
    state, _ = run(
        user(),
        new(c.ChangeGrants, user="ann", table_uuid="t1", granted=("SELECT",)),
        user("bob"),
        state=with_table("t2"),
    )
    assert state.access.users["ann"].grants == {}


def test_a_key_needs_its_user_and_goes_with_it() -> None:
    state, codes = run(key(), user(), key(), key(), new(c.DropUser, name="ann"))
    assert codes == ["undefined_user", "", "", "duplicate_key_id", ""]
    assert (state.access.users, state.access.keys) == ({}, {})


def test_a_rotated_key_keeps_its_old_text_until_the_grace_is_over() -> None:
    rotate = new(c.RotateKey, key_id="k1", digest="new", rotated_ms=2000, grace_until_ms=3000)
    state, _ = run(user(), key(), rotate)
    found = state.access.keys["k1"]
    assert (found.digest, found.old_digest, found.old_until_ms) == ("new", "d-k1", 3000)


def test_a_revoked_key_takes_its_sessions_with_it() -> None:
    state, codes = run(
        user(),
        key(),
        key("s1", parent="k1", expires_ms=5000),
        key("s2", parent="gone", expires_ms=5000),
        new(c.RevokeKey, key_id="k1"),
        new(c.RevokeKey, key_id="k1"),
    )
    assert codes == ["", "", "", "undefined_key", "", "undefined_key"]
    assert state.access.keys == {}


def test_sessions_end_by_time_and_by_number() -> None:
    sessions = [
        key(f"s{n:03}", parent="k1", created_ms=1000 + n, expires_ms=50_000)
        for n in range(a.SESSIONS_PER_KEY + 2)
    ]
    state, _ = run(user(), key(), *sessions)
    kept = sorted(k for k in state.access.keys if k != "k1")
    assert kept == [f"s{n:03}" for n in range(2, a.SESSIONS_PER_KEY + 2)]
    state, _ = run(key("late", parent="k1", created_ms=50_000, expires_ms=60_000), state=state)
    assert sorted(state.access.keys) == ["k1", "late"]


def test_void_tokens_are_forgotten_when_they_would_have_expired() -> None:
    revoke = {"revoked_ms": 1000, "until_ms": 2000}
    state, _ = run(
        new(c.RevokeToken, jti="x", **revoke), new(c.RevokeToken, subject="ann", **revoke)
    )
    assert state.access.revoked_tokens == {"x": 2000}
    assert state.access.revoked_subjects == {"ann": (1000, 2000)}
    state, _ = run(new(c.RevokeToken, jti="y", revoked_ms=2000, until_ms=9000), state=state)
    assert state.access.revoked_tokens == {"y": 9000}
    assert state.access.revoked_subjects == {}


def test_a_repeated_command_changes_the_state_once() -> None:
    twice = user()
    state, codes = run(twice, twice)
    assert codes == ["", ""]
    assert state.access.version == 1


def test_every_access_command_is_handled() -> None:
    assert set(a._HANDLERS) == set(c.ACCESS_COMMANDS)


@pytest.mark.parametrize(
    "command",
    [
        user(tables=("t1", "t2")),
        new(c.DropUser, name="ann"),
        new(c.ChangeGrants, user="ann", table_uuid="t1", granted=("SELECT",), revoked=()),
        key(expires_ms=5, rate=7, concurrency=2, parent="k0"),
        new(c.RotateKey, key_id="k", digest="d", rotated_ms=1, grace_until_ms=2, expires_ms=None),
        new(c.RevokeKey, key_id="k"),
        new(c.RevokeToken, revoked_ms=1, until_ms=2, subject="ann"),
    ],
    ids=lambda command: type(command).__name__,
)
def test_commands_survive_the_journal(command: Command) -> None:
    assert decode_command(encode_command(command)) == command


def test_the_state_survives_a_snapshot() -> None:
    state, _ = run(
        user(tables=("t1",)),
        key(expires_ms=9, rate=1),
        new(c.RotateKey, key_id="k1", digest="n", rotated_ms=2, grace_until_ms=3),
        new(c.RevokeToken, jti="x", revoked_ms=1, until_ms=2),
        new(c.RevokeToken, subject="ann", revoked_ms=1, until_ms=2),
    )
    assert from_plain(s.Metadata, unpack(pack(to_plain(state)))) == state
