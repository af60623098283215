"""The slow-query log: a line for each statement of `limits.slow_statement_ms` or longer."""

from __future__ import annotations

import structlog

from nearql.query.dialect.redact import without_values
from nearql.query.running import RunningStatement

log = structlog.get_logger("nearql.slow")
SHOWN_CHARS = 1000


def log_slow(statement: RunningStatement) -> None:
    """Say what took long and where the time went; values in the text are shown as `?`."""
    row = statement.row()
    times = {name: round(row[name], 1) for name in row if name.endswith("_ms") and row[name]}
    log.warning(
        "slow_statement",
        id=statement.id,
        user=statement.user,
        state=statement.state,
        strategy=row["strategy"],
        rows=statement.rows,
        error=statement.error,
        text=without_values(statement.text)[:SHOWN_CHARS],
        **times,
    )
