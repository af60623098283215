"""Settings of a node: one table of sections, filled from defaults, a YAML file, variables and
flags.

Later sources win: defaults < file < `NEARQL_<SECTION>_<KEY>` variables < command-line flags. An
unknown key in a file is an error that names the nearest valid one; an unknown `NEARQL_*` variable
is only a warning, because Kubernetes injects some. Relative paths in a file count from the file's
folder. `docs/configuration.md` lists every key; a test compares.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from nearql.engine.errors import InvalidRequest
from nearql.engine.settings import EngineSettings
from nearql.query.settings import SessionSettings
from nearql.server import cluster_settings
from nearql.server.backup.settings import BackupSection
from nearql.server.cluster_settings import ClusterSection, RaftSection, ReplicationSection
from nearql.server.log_settings import LogSection, TraceSection
from nearql.server.setting import key as _key
from nearql.server.sizes import parse_share, parse_size, resolve_memory

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class ConfigError(InvalidRequest):
    """A setting is wrong; the detail names it, where it came from and what it should be."""

    code = "invalid_configuration"
    title = "Invalid configuration"


@dataclass(frozen=True)
class NodeSection:
    """Who this node is."""

    name: str = _key("n1", "Name of this node, unique in its cluster.")
    data_dir: Path = _key(
        Path("nearql-data"), "Directory of everything that must survive a restart."
    )
    advertise_url: str = _key(
        "", "URL under which clients reach this node; default http(s)://host:port."
    )
    copy_dir: str = _key(
        "",
        "Directory below which COPY may read and write files, apart from `data_dir`; empty = COPY "
        "is refused.",
        path=True,
    )


@dataclass(frozen=True)
class HttpSection:
    """The HTTP edge."""

    host: str = _key(
        "127.0.0.1", "Address to listen on. Others than loopback need `auth` or --insecure."
    )
    port: int = _key(8470, "Port of the API, the dashboard and the metrics; 0 takes a free one.")
    workers: int = _key(8, "Threads that run searches and writes.", low=1, high=256)
    queue: int = _key(512, "Requests waiting for such a thread before 429 is answered.", low=1)
    inline_ms: int = _key(
        3, "A search whose last runs took no longer needs no thread; 0 = each does.", low=0, high=99
    )
    keep_alive_ms: int = _key(75_000, "Idle time after which a connection is closed.", low=1000)
    shutdown_timeout_ms: int = _key(
        30_000,
        "How long a stop waits for requests in flight; in a cluster 10 s of it are for handing "
        "over.",
        low=0,
    )
    tls_cert_file: str = _key(
        "", "Certificate chain (PEM): https instead of http. Read again when it changes.", path=True
    )
    tls_key_file: str = _key("", "Key of the certificate (PEM, without a password).", path=True)
    bulk_workers: int = _key(
        0, "Threads for bulk rows, beside statements; 0 = one per four cores.", low=0, high=64
    )
    bulk_queue: int = _key(32, "Bulk requests waiting for a thread before 429 is answered.", low=1)
    heavy_workers: int = _key(
        0,
        "Threads for statements that are more than a search: joins, groups, scans. 0 = one per two "
        "cores, at least 2.",
        low=0, high=64,
    )  # fmt: skip
    heavy_queue: int = _key(128, "Such statements waiting for a thread before 429.", low=1)
    remote_workers: int = _key(
        32, "Threads that wait for other nodes' answers, in a cluster.", low=1, high=256
    )
    small_body: int = _key(
        1 << 20, "A /v1/sql body above it runs among the bulk rows, not before searches.", size=True
    )
    max_connections: int = _key(4096, "Open connections before 503 is answered.", low=1)
    max_head: int = _key(128 << 10, "Bytes of a request line with its headers (431).", size=True)
    head_timeout_ms: int = _key(10_000, "How long headers may take to come (408).", low=1000)
    receive_timeout_ms: int = _key(30_000, "How long a body may pause (408).", low=1000)
    receive_rate: int = _key(
        1024, "Bytes per second that a body must keep up with after that (408).", low=1
    )
    send_timeout_ms: int = _key(30_000, "How long an answer may stay unread.", low=1000)


@dataclass(frozen=True)
class AuthSection:
    """Who may do what."""

    mode: str = _key(
        "none", "none: everybody may do everything. required: every request needs a key or token."
    )
    bootstrap_admin_key_file: str = _key(
        "", "File with an administrator's key; made, with a new key, where it does not exist.",
        path=True,
    )  # fmt: skip
    jwt_key_file: str = _key(
        "", "JSON Web Key Set that signed tokens are checked against; none: none is accepted.",
        path=True,
    )  # fmt: skip
    jwt_issuer: str = _key("nearql", "What `iss` of a signed token must be.")
    jwt_audience: str = _key("nearql", "What `aud` of a signed token must be or hold.")
    jwt_lifetime_s: int = _key(
        900, "Longest time from `iat` to `exp` of a signed token.", low=10, high=86_400
    )
    jwt_leeway_s: int = _key(30, "How far clocks may differ.", low=0, high=30)
    session_s: int = _key(43_200, "How long a session of /v1/login lasts.", low=60, high=2_592_000)
    rotation_grace_s: int = _key(
        86_400, "How long a key's old text stays valid after a rotation.", low=0, high=2_592_000
    )
    max_keys: int = _key(10_000, "Users, and keys with sessions, that there may be.", low=1)
    audit_file: int = _key(
        64 << 20, "Size at which a new audit.log is begun; one older is kept.", size=True
    )


@dataclass(frozen=True)
class EngineSection:
    """The data on this node."""

    device: str = _key("auto", "auto, cpu or gpu. gpu refuses to start without a working device.")
    backend: str = _key("auto", "auto, numpy or faiss_cpu: what runs searches on the CPU.")
    memory_limit: str = _key(
        "80%", "What all work may take: bytes, or share of the cgroup's or machine's memory."
    )
    duckdb_memory_limit: str = _key(
        "25%", "The part of memory that DuckDB may use before it spills."
    )
    duckdb_threads: int = _key(0, "Threads of one DuckDB statement; 0 = one per core.", low=0)
    gpu_memory_limit: str = _key(
        "90%", "Bytes, or share of the GPU's memory, for rows and searches."
    )
    search_threads: int = _key(0, "Threads of searches; 0 = one per core.", low=0)
    scan_codes: int = _key(
        1 << 30, "Memory for 8-bit codes that speed up exact searches; 0 = none.", size=True
    )
    text_memory: int = _key(
        1 << 30, "Bytes of text that the indexes of bm25() may hold.", size=True
    )
    index_min_rows: int = _key(
        5_000, "Rows of a segment below which it is read, whatever index is declared.", low=64
    )
    tune_quiet_ms: int = _key(
        2_000,
        "Time without a search after which indexes are tuned on the last queries; 0 = never.",
        low=0,
    )
    index_seal_rows: int = _key(
        32_768, "Rows in memory at which those of an indexed table are sealed.", low=64
    )
    join_rows: int = _key(1 << 20, "Rows up to which segments are joined to be indexed.", low=16)
    join_bytes: int = _key(2 << 30, "Bytes, likewise; at most an eighth of memory.", size=True)
    seal_rows: int = _key(131_072, "Row versions at which a growing segment is sealed.", low=16)
    seal_bytes: int = _key(
        256 << 20, "Vector bytes at which a growing segment is sealed.", size=True
    )
    checkpoint_wal: int = _key(
        256 << 20, "Log behind the last checkpoint that starts a new one.", size=True
    )
    checkpoint_pause: int = _key(
        4,
        "How many times as long as its last checkpoint a table waits for the next, 0.5 s at most.",
        low=0, high=1_000,
    )  # fmt: skip
    scrub_rate: int = _key(
        16 << 20, "Bytes a second at which sealed files are verified again; 0 = never.", size=True
    )
    scrub_interval_hours: int = _key(
        168, "Hours between two verifications of all sealed files.", low=1
    )
    wal_file: int = _key(64 << 20, "Size of a WAL file.", size=True)
    wal_retention: int = _key(
        1 << 30, "WAL kept for replicas; a node alone trims freely.", size=True
    )
    disk_reserve: int = _key(64 << 20, "Free disk space below which writes answer 507.", size=True)
    write_queue_bytes: int = _key(
        64 << 20, "Waiting writes per table before 429 is answered.", size=True
    )
    write_queue_batches: int = _key(256, "Waiting batches per table before 429 is answered.", low=1)


@dataclass(frozen=True)
class LimitsSection:
    """What one request may ask for."""

    json_body: int = _key(64 << 20, "Largest JSON body (413 beyond).", size=True)
    stream_body: int = _key(
        1 << 30, "Largest streamed body, after decompression (413 beyond).", size=True
    )
    spool_memory: int = _key(
        256 << 20, "Memory of all bodies being received together; files beyond.", size=True
    )
    json_memory: int = _key(512 << 20, "Memory of all JSON bodies together; 429 beyond.", size=True)
    key_rate: int = _key(0, "Requests per second of one key; 0 = no limit.", low=0)
    key_concurrency: int = _key(0, "Requests at a time of one key; 0 = no limit.", low=0)
    text_words: int = _key(1_024, "Different words that one bm25() may ask for.", low=1)
    expansion_ratio: int = _key(
        20, "How many times its size a compressed body may expand (413 beyond).", low=2
    )
    expansion_free: int = _key(
        64 << 20, "Bytes that a body may expand to whatever the ratio.", size=True
    )
    json_expansion_free: int = _key(4 << 20, "The same of a compressed JSON body.", size=True)
    max_limit: int = _key(16_384, "Largest k (LIMIT + OFFSET) of a vector search.", low=1)
    map_rows: int = _key(
        2_000, "Rows that a map of a table's vectors may show.", low=2, high=10_000
    )
    max_tables: int = _key(1_000, "Tables on this node.", low=1)
    max_views: int = _key(1_000, "Views.", low=1)
    result_rows: int = _key(1_000_000, "Rows of one answer (413 beyond).", low=1)
    result_bytes: int = _key(512 << 20, "Bytes of one answer (413 beyond).", size=True)
    answer_memory: int = _key(
        1 << 30, "Memory of all large answers on their way to clients; 429 beyond.", size=True
    )
    latency_budget_ms: int = _key(
        10,
        "How long a search waits at most for others, to be answered together; 0 = never.",
        low=0, high=60_000,
    )  # fmt: skip
    call_length: int = _key(
        20_000,
        "Characters or elements that one call in a statement may make, as in repeat('a', n).",
        low=1_000, high=100_000_000,
    )  # fmt: skip
    statement_timeout_ms: int = _key(30_000, "Default time of one statement; 0 = none.", low=0)
    sql_length: int = _key(16 << 20, "Characters of SQL text in one request.", size=True)
    sql_depth: int = _key(32, "Nesting of brackets in one statement.", low=8, high=64)
    sql_tokens: int = _key(
        20_000,
        "Words, numbers and signs of one statement; a long list of literals in IN is one.",
        low=1_000, high=1_000_000,
    )  # fmt: skip
    sql_joins: int = _key(100, "Joins in one statement.", low=1, high=1_000)
    slow_statement_ms: int = _key(
        1_000, "Time from which a statement is kept in nearql.queries as slow.", low=0
    )
    slow_statements: int = _key(128, "How many slow statements are kept.", low=0, high=10_000)


@dataclass(frozen=True)
class Config:
    """All settings of one node, validated."""

    node: NodeSection = field(default_factory=NodeSection)
    http: HttpSection = field(default_factory=HttpSection)
    auth: AuthSection = field(default_factory=AuthSection)
    engine: EngineSection = field(default_factory=EngineSection)
    limits: LimitsSection = field(default_factory=LimitsSection)
    cluster: ClusterSection = field(default_factory=ClusterSection)
    raft: RaftSection = field(default_factory=RaftSection)
    replication: ReplicationSection = field(default_factory=ReplicationSection)
    log: LogSection = field(default_factory=LogSection)
    trace: TraceSection = field(default_factory=TraceSection)
    backup: BackupSection = field(default_factory=BackupSection)
    insecure: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def advertise_url(self) -> str:
        """Where clients reach this node."""
        scheme = "https" if self.http.tls_cert_file else "http"
        return self.node.advertise_url or f"{scheme}://{self.http.host}:{self.http.port}"

    def session_settings(self) -> SessionSettings:
        """The query layer's own form of these settings."""
        limits, engine = self.limits, self.engine
        return SessionSettings(
            sql_chars=limits.sql_length,
            sql_depth=limits.sql_depth,
            sql_tokens=limits.sql_tokens,
            sql_joins=limits.sql_joins,
            statement_timeout_ms=limits.statement_timeout_ms,
            write_concern=self.replication.write_concern,
            write_timeout_ms=self.replication.write_timeout_ms,
            latency_budget_ms=limits.latency_budget_ms,
            max_limit=limits.max_limit,
            call_length=limits.call_length,
            copy_dir=self.node.copy_dir,
            result_rows=limits.result_rows,
            result_bytes=self.share_of_memory(limits.result_bytes, 4),
            duck_memory_bytes=self.share_of_memory(resolve_memory(engine.duckdb_memory_limit), 3),
            duck_threads=engine.duckdb_threads,
            slow_statement_ms=limits.slow_statement_ms,
            slow_statements=limits.slow_statements,
        )

    def share_of_memory(self, size: int, divisor: int) -> int:
        """A size, but no more than this part of engine.memory_limit: defaults fit small nodes."""
        return min(size, resolve_memory(self.engine.memory_limit) // divisor)

    def engine_settings(self) -> EngineSettings:
        """The engine's own form of these settings, sizes resolved on this machine."""
        e = self.engine
        gpu_share = parse_share(e.gpu_memory_limit)
        return EngineSettings(
            device=e.device,
            backend=e.backend,
            memory_limit_bytes=resolve_memory(e.memory_limit),
            gpu_memory_share=gpu_share or 1.0,
            gpu_memory_bytes=None if gpu_share else parse_size(e.gpu_memory_limit),
            search_threads=e.search_threads,
            scan_codes_bytes=self.share_of_memory(e.scan_codes, 8),
            column_cache_bytes=self.share_of_memory(EngineSettings().column_cache_bytes, 16),
            text_memory_bytes=e.text_memory,
            text_words=self.limits.text_words,
            index_min_rows=e.index_min_rows,
            index_seal_rows=e.index_seal_rows,
            join_rows=e.join_rows,
            join_bytes=self.share_of_memory(e.join_bytes, 8),
            tune_quiet_ms=e.tune_quiet_ms,
            seal_rows=e.seal_rows,
            seal_bytes=self.share_of_memory(e.seal_bytes, 16),
            checkpoint_wal_bytes=e.checkpoint_wal,
            checkpoint_pause=e.checkpoint_pause,
            scrub_rate_bytes=e.scrub_rate,
            scrub_interval_s=e.scrub_interval_hours * 3600,
            wal_file_bytes=e.wal_file,
            # Nobody catches up from a node alone.
            wal_retention_bytes=e.wal_retention if self.cluster.enabled else 0,
            disk_reserve_bytes=e.disk_reserve,
            write_queue_bytes=e.write_queue_bytes,
            write_queue_batches=e.write_queue_batches,
        )


SECTIONS: dict[str, type[Any]] = {
    "node": NodeSection, "http": HttpSection, "auth": AuthSection, "engine": EngineSection,
    "limits": LimitsSection, "cluster": ClusterSection, "raft": RaftSection,
    "replication": ReplicationSection, "log": LogSection, "trace": TraceSection,
    "backup": BackupSection,
}  # fmt: skip
_CHOICES = {
    "auth.mode": ("none", "required"),
    "engine.device": ("auto", "cpu", "gpu"),
    "engine.backend": ("auto", "numpy", "faiss_cpu"),
    "log.format": ("console", "json"),
    "log.level": ("debug", "info", "warning", "error"),
    "log.requests": ("none", "all"),
    "trace.exporter": ("none", "otlp"),
    **cluster_settings.CHOICES,
}
_TRUTH = {
    "true": True, "yes": True, "on": True, "1": True,
    "false": False, "no": False, "off": False, "0": False,
}  # fmt: skip
_PLAIN_VARIABLES = {"NEARQL_DATA_DIR": ("node", "data_dir")}
_OTHER_VARIABLES = frozenset(
    {
        "NEARQL_CONFIG",
        "NEARQL_INSECURE",
        "NEARQL_VENV",
        "NEARQL_URL",
        "NEARQL_TOKEN",
        "NEARQL_TOKEN_FILE",
        "NEARQL_CA_FILE",
    }
)


def load_config(
    file: Path | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
    insecure: bool = False,
) -> Config:
    """The settings of a node.

    Args:
        file: a YAML file; else the one that NEARQL_CONFIG names, if any.
        environment: defaults to the process's own.
        flags: `section.key` -> value, None where not given.

    Raises:
        ConfigError: names the setting, its source and what it should be.
    """
    environment = os.environ if environment is None else environment
    if file is None and environment.get("NEARQL_CONFIG"):
        file = Path(environment["NEARQL_CONFIG"])
    found: dict[tuple[str, str], tuple[Any, str]] = {}
    if file is not None:
        found.update(_from_file(file))
    variables, warnings = _from_environment(environment)
    found.update(variables)
    for name, value in (flags or {}).items():
        if value is not None:
            section, _, key = name.partition(".")
            found[section, key] = (value, f"--{key.replace('_', '-')}")
    config = _build(found)
    insecure = insecure or environment.get("NEARQL_INSECURE", "").lower() in ("1", "true", "yes")
    return _checked(replace(config, insecure=insecure, warnings=tuple(warnings)))


def _from_file(file: Path) -> dict[tuple[str, str], tuple[Any, str]]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise ConfigError(
            f"The configuration file {file} can't be read: {error.strerror}."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"The configuration file {file} is not valid YAML: {error}.") from error
    if not isinstance(content, dict):
        raise ConfigError(f"The configuration file {file} must map sections to keys.")
    found: dict[tuple[str, str], tuple[Any, str]] = {}
    for section, keys in content.items():
        _check_section(str(section), keys, file)
        for key, value in (keys or {}).items():
            _check_key(section, str(key), file)
            if value is None:
                continue
            if _is_path(section, str(key)):
                value = file.parent / Path(str(value))
            found[section, key] = (value, str(file))
    return found


def _is_path(section: str, key: str) -> bool:
    """Whether a setting names a file; in a configuration file it counts from that file's folder."""
    setting = next(f for f in fields(SECTIONS[section]) if f.name == key)
    return isinstance(setting.default, Path) or bool(setting.metadata.get("path"))


def _check_section(section: str, keys: Any, file: Path) -> None:
    if section not in SECTIONS:
        raise ConfigError(f"{file}: unknown section {section!r}{_nearest(section, [*SECTIONS])}.")
    if keys is not None and not isinstance(keys, dict):
        raise ConfigError(f"{file}: section {section!r} must map keys to values.")


def _check_key(section: str, key: str, file: Path) -> None:
    names = [f.name for f in fields(SECTIONS[section])]
    if key not in names:
        raise ConfigError(
            f"{file}: unknown key {section}.{key}{_nearest(key, names, section + '.')}."
        )


def _nearest(word: str, names: list[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.4)
    return f"; did you mean {prefix}{close[0]}?" if close else f"; valid are {', '.join(names)}"


def _from_environment(
    environment: Mapping[str, str],
) -> tuple[dict[tuple[str, str], tuple[Any, str]], list[str]]:
    found: dict[tuple[str, str], tuple[Any, str]] = {}
    warnings = []
    known = {
        f"NEARQL_{section}_{f.name}".upper(): (section, f.name)
        for section, kind in SECTIONS.items()
        for f in fields(kind)
    } | _PLAIN_VARIABLES
    for name, text in sorted(environment.items()):
        if not name.startswith("NEARQL_") or name in _OTHER_VARIABLES:
            continue
        if name in known:
            found[known[name]] = (text, f"variable {name}")
        else:
            warnings.append(f"Unknown variable {name} is ignored{_nearest(name, list(known))}.")
    return found, warnings


def _build(found: dict[tuple[str, str], tuple[Any, str]]) -> Config:
    sections = {}
    for section, kind in SECTIONS.items():
        values = {
            f.name: _convert(f"{section}.{f.name}", f, *found[section, f.name])
            for f in fields(kind)
            if (section, f.name) in found
        }
        sections[section] = kind(**values)
    return Config(**sections)


def _convert(name: str, setting: Any, value: Any, source: str) -> Any:
    """The value as the setting's type, checked against its range and choices."""
    default, metadata = setting.default, setting.metadata
    try:
        if isinstance(default, Path):
            return Path(str(value))
        if metadata.get("size"):
            return parse_size(str(value))
        converted: Any = _plain(default, value)
    except ValueError:
        wanted = "a size such as 64MiB" if metadata.get("size") else _wanted(default)
        raise ConfigError(f"{name} = {value!r} ({source}): must be {wanted}.") from None
    low, high = metadata.get("low"), metadata.get("high")
    if (low is not None and converted < low) or (high is not None and converted > high):
        raise ConfigError(f"{name} = {converted} ({source}): must be {_range(low, high)}.")
    choices = _CHOICES.get(name)
    if choices and converted not in choices:
        raise ConfigError(f"{name} = {value!r} ({source}): must be one of {', '.join(choices)}.")
    return converted


def _plain(default: Any, value: Any) -> Any:
    """The value as the default's type; raises ValueError. In a variable, commas part a list."""
    if isinstance(default, bool):
        return _truth(str(value).lower())
    if isinstance(default, tuple):
        items = value if isinstance(value, list) else str(value).split(",")
        kind = type(default[0]) if default else str
        return tuple(kind(str(item).strip()) for item in items if str(item).strip())
    return int(str(value)) if isinstance(default, int) else str(value)


def _truth(text: str) -> bool:
    if text not in _TRUTH:
        raise ValueError(text)
    return _TRUTH[text]


def _wanted(default: Any) -> str:
    return "true or false" if isinstance(default, bool) else "a whole number"


def _range(low: int | None, high: int | None) -> str:
    return f"at least {low}" if high is None else f"{low} to {high}"


def _checked(config: Config) -> Config:
    """Refuse what is unsafe or not offered."""
    if not 0 <= config.http.port <= 65_535:
        raise ConfigError(f"http.port = {config.http.port}: must be 0 to 65535.")
    if bool(config.http.tls_cert_file) != bool(config.http.tls_key_file):
        raise ConfigError(
            "http.tls_cert_file and http.tls_key_file belong together: set both, or neither."
        )
    is_open = config.auth.mode == "none" and not config.insecure
    if config.http.host not in LOOPBACK and is_open:
        raise ConfigError(
            f"http.host = {config.http.host} is reachable from other machines and auth.mode is "
            "none: whoever connects could do everything. Set auth.mode to required and "
            "auth.bootstrap_admin_key_file to a file for the first administrator's key "
            "(NEARQL_AUTH_MODE=required NEARQL_AUTH_BOOTSTRAP_ADMIN_KEY_FILE=./admin.key), bind "
            "127.0.0.1, or accept the risk with --insecure (or NEARQL_INSECURE=1)."
        )
    for key in ("memory_limit", "duckdb_memory_limit", "gpu_memory_limit"):
        text = getattr(config.engine, key)
        try:
            resolve_memory(text)
        except ValueError:
            raise ConfigError(f"engine.{key} = {text!r}: must be like 80% or 8GiB.") from None
    _check_copy_dir(config)
    if config.backup.archive and not config.backup.repository:
        raise ConfigError(
            "backup.archive = true: set backup.repository, the place that the log is shipped to."
        )
    if config.cluster.enabled:
        _check_cluster(config)
    return config


def _check_copy_dir(config: Config) -> None:
    """COPY must reach nothing of what the node itself keeps."""
    if not config.node.copy_dir:
        return
    copies, data = Path(config.node.copy_dir).resolve(), config.node.data_dir.resolve()
    if copies.is_relative_to(data) or data.is_relative_to(copies):
        raise ConfigError(
            f"node.copy_dir = {config.node.copy_dir}: must be apart from node.data_dir = "
            f"{config.node.data_dir}."
        )


def _check_cluster(config: Config) -> None:
    try:
        cluster_settings.check_cluster(config)
    except ConfigError:
        raise
    except InvalidRequest as error:
        raise ConfigError(error.detail) from None
