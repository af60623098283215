"""Repositories of backups, for the commands.

Like `_connect` a place that knows both sides: the client must not import the server.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any


def call(function: str, *arguments: Any, **options: Any) -> Any:
    """What a function of `nearql.server.backup.desk` answers.

    Raises:
        nearql.client.errors.Error: what it raised, as an answer of a node would tell it.
        nearql.client.errors.UsageError: the server is not installed.
    """
    from nearql.client.errors import UsageError, from_problem

    try:
        from nearql.engine.errors import NearQLError
        from nearql.server.backup import desk
        from nearql.server.logs import quiet_logs
        from nearql.server.problem import document
    except ModuleNotFoundError as error:
        if (error.name or "nearql").startswith("nearql"):
            raise  # a bug of ours, not a missing extra
        raise UsageError(
            f"For a repository that this command reads or writes itself the package {error.name!r} "
            "is missing: pip install 'nearql[server]'."
        ) from error
    quiet_logs()
    work: Callable[..., Any] = getattr(desk, function)
    try:
        return work(*arguments, **options)
    except NearQLError as error:
        raise from_problem(document(error, str(uuid.uuid4()))) from error
