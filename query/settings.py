"""Settings of the query layer: the node's limits, and the variables that a request may set.

Every variable is one row of `VARIABLES`: its name in SQL, its default, how its value is checked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nearql.engine.errors import InvalidValue, SqlError
from nearql.query.duck_errors import nearest_name

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """The node's limits for statements. Sizes are bytes, times milliseconds."""

    sql_chars: int = 16 << 20  # longest text of a request
    sql_depth: int = 32  # deepest nesting in a statement; see `dialect.depth`
    sql_tokens: int = 20_000  # longest statement in words, numbers and signs; see `dialect.depth`
    sql_joins: int = 100  # most joins of a statement
    statement_timeout_ms: int = 30_000
    write_concern: str = "majority"
    write_timeout_ms: int = 5_000
    latency_budget_ms: int = 10
    max_limit: int = 16_384  # largest LIMIT + OFFSET of a search
    result_rows: int = 1_000_000  # largest answer
    result_bytes: int = 512 * MIB
    join_rows: int = 10_000_000  # most rows that a batched kNN join may find, left rows * k
    call_length: int = 20_000  # characters or elements that one call may make
    duck_memory_bytes: int = 0  # 0 = DuckDB's own choice
    duck_threads: int = 0  # 0 = one per core
    plan_cache_entries: int = 512
    plan_cache_text: int = 65_536  # longer texts aren't kept
    filter_cache_bytes: int = 64 * MIB
    copy_dir: str = ""  # below which COPY reads and writes files; "" = COPY is refused
    slow_statement_ms: int = 1_000  # what takes longer is kept in nearql.queries
    slow_statements: int = 128  # how many are kept


def _integer(low: int, high: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if isinstance(value, str) and value.strip().lstrip("-").isdigit():
            value = int(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return value

    return check


def _recall(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if isinstance(value, bool) or not 0 < number <= 1:
        raise ValueError("a number above 0 and up to 1")
    return number


def _choice(*choices: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if not isinstance(value, str) or value.lower() not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return value.lower()

    return check


def _concern(value: Any) -> str:
    text = str(value).lower()
    if isinstance(value, bool) or not (
        text in ("one", "majority", "all") or (text.isdigit() and int(text) > 0)
    ):
        raise ValueError("one, majority, all or a number of copies")
    return text


@dataclass(frozen=True, slots=True)
class Variable:
    """What a request may SET. node: the field of SessionSettings that is its default.

    ignored: why setting it changes nothing, for a variable of pgvector's that is only accepted.
    """

    check: Callable[[Any], Any]
    help: str
    default: Any = None
    node: str | None = None
    ignored: str | None = None


def _accepted(check: Callable[[Any], Any], why: str) -> Variable:
    return Variable(check, f"accepted: {why}", ignored=why)


_SIZE = re.compile(r"\d+(\.\d+)?\s*(B|kB|MB|GB|TB)?$", re.IGNORECASE)


def _size(value: Any) -> str:
    if isinstance(value, bool) or not _SIZE.match(str(value).strip()):
        raise ValueError("a size such as 64MB")
    return str(value)


def _multiple(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= 1_000:
        raise ValueError("a number from 1 to 1000")
    return float(value)


_DAY_MS = 86_400_000
_FILTERS = "filters never cost rows here"
_CORES = "builds and searches use every core"
# Of PostgreSQL and its relatives, asked for and not there -> the alternative.
INSTEAD: Mapping[str, str] = {
    "statement_timeout": "Use statement_timeout_ms.",
    "lock_timeout": "Use write_timeout_ms.",
    "synchronous_commit": "Use write_concern.",
    "search_path": "There are no schemas.",
    "timezone": "Times are UTC; write AT TIME ZONE in the query.",
    "work_mem": "The node's engine.memory_limit bounds memory.",
    "shared_buffers": "The node's engine.memory_limit bounds memory.",
    "effective_cache_size": "The node's engine.memory_limit bounds memory.",
    "enable_seqscan": "SET target_recall or hnsw.ef_search permits an index.",
    "enable_indexscan": "Answers are exact unless target_recall permits less: RESET target_recall.",
    "diskann.query_search_list_size": "Use hnsw.ef_search, or target_recall.",
    "diskann.query_rescore": "Answers are always ranked by exact distances.",
    "vchordrq.probes": "Use ivfflat.probes, or target_recall.",
    "vchordrq.epsilon": "Use target_recall.",
    "vchordrq.prefilter": "Filters are always applied before the search.",
}
VARIABLES: Mapping[str, Variable] = {
    "target_recall": Variable(
        _recall, "recall that indexes must reach; unset = the index's own, 1 = exact"
    ),
    "latency_budget_ms": Variable(
        _integer(0, 60_000),
        "how long a search waits at most for others, to be answered together; 0 = never",
        node="latency_budget_ms",
    ),
    "hnsw.ef_search": Variable(_integer(1, 10_000), "candidate list of HNSW indexes"),
    "ivfflat.probes": Variable(_integer(1, 1_000_000), "lists that IVF indexes look into"),
    "hnsw.iterative_scan": _accepted(_choice("off", "strict_order", "relaxed_order"), _FILTERS),
    "hnsw.max_scan_tuples": _accepted(_integer(1, 2**31 - 1), _FILTERS),
    "hnsw.scan_mem_multiplier": _accepted(_multiple, _FILTERS),
    "ivfflat.iterative_scan": _accepted(_choice("off", "relaxed_order"), _FILTERS),
    "ivfflat.max_probes": _accepted(_integer(1, 1_000_000), _FILTERS),
    "maintenance_work_mem": _accepted(_size, "builds take what engine.memory_limit allows"),
    "max_parallel_maintenance_workers": _accepted(_integer(0, 1_024), _CORES),
    "max_parallel_workers": _accepted(_integer(0, 1_024), _CORES),
    "max_parallel_workers_per_gather": _accepted(_integer(0, 1_024), _CORES),
    "min_parallel_table_scan_size": _accepted(_size, _CORES),
    "write_concern": Variable(
        _concern, "copies on which a write must be durable", node="write_concern"
    ),
    "write_timeout_ms": Variable(_integer(1, _DAY_MS), "wait for a write", node="write_timeout_ms"),
    "read_level": Variable(
        _choice("any", "session", "bounded", "linearizable"), "which copies may answer", "any"
    ),
    "max_staleness_ms": Variable(_integer(0, _DAY_MS), "for read_level = bounded"),
    "statement_timeout_ms": Variable(
        _integer(1, _DAY_MS), "time that a statement may take", node="statement_timeout_ms"
    ),
    "partial_answers": Variable(
        _choice("off", "on"), "on: leave rows of damaged segments out, and say so", "off"
    ),
    "device": Variable(_choice("auto", "cpu", "gpu"), "where searches run", "auto"),
}


def unknown_setting(name: str, further: Iterable[str]) -> SqlError:
    """The error for a name that is no variable, nor one of `further`, with the alternative."""
    near = nearest_name(name, [*VARIABLES, *further])
    hint = INSTEAD.get(name.lower())
    if hint is None:
        hint = f"Did you mean {near!r}?" if near else "SHOW SETTINGS lists them."
    extra: dict[str, Any] = {"nearest": near} if near and name.lower() not in INSTEAD else {}
    return SqlError(
        f"There is no setting {name!r}. {hint}", code="unknown_setting", sqlstate="42704",
        name=name, **extra,
    )  # fmt: skip


@dataclass
class Variables:
    """The variables of one request, those that were set."""

    node: SessionSettings
    values: dict[str, Any] = field(default_factory=dict)

    def set(self, name: str, value: Any) -> None:
        """Set one; None resets it.

        Raises:
            SqlError: no such variable, with the nearest name. InvalidValue: not a value for it.
        """
        variable = VARIABLES.get(name.lower())
        if variable is None:
            raise unknown_setting(name, ())
        if value is None or (isinstance(value, str) and value.lower() == "default"):
            self.values.pop(name.lower(), None)
            return
        try:
            self.values[name.lower()] = variable.check(value)
        except ValueError as error:
            raise InvalidValue(
                f"{name} can't be {value!r}; it takes {error}.",
                code="invalid_setting",
                setting=name.lower(),
            ) from None

    def get(self, name: str) -> Any:
        """The value that holds for this request."""
        if name in self.values:
            return self.values[name]
        variable = VARIABLES[name]
        return getattr(self.node, variable.node) if variable.node else variable.default
