"""The section `backup` of the configuration."""

from __future__ import annotations

from dataclasses import dataclass

from nearql.server.setting import key as _key


@dataclass(frozen=True)
class BackupSection:
    """Where backups go, and whether the log goes there, too."""

    repository: str = _key(
        "",
        "Directory or s3://bucket/prefix that backups go to if a request names none; of buckets "
        "only this one, and what is below it, may be used.",
    )  # fmt: skip
    s3_endpoint: str = _key(
        "", "URL of an S3-compatible server, such as http://minio:9000; empty = AWS."
    )
    s3_region: str = _key("", "Region of the bucket; empty = as AWS's clients find out.")
    s3_key_file: str = _key(
        "",
        "File with two lines, the access key's id and the secret; empty = as AWS's clients look "
        "for them.",
        path=True,
    )  # fmt: skip
    rate: int = _key(
        0, "Bytes a second that one backup or restore reads at most; 0 = no limit.", size=True
    )
    archive: bool = _key(
        False,
        "Ship the log of all tables to `repository`, all the time, for restores to any moment.",
    )
    archive_interval_ms: int = _key(
        5000, "How often the log is shipped: what is younger may be lost with the node.", low=50
    )
    archive_keep: int = _key(
        4 << 30,
        "Log of a shard that is kept for the archive while the repository is away; beyond that the "
        "archive gets a gap.",
        size=True,
    )
    archive_rate: int = _key(
        0, "Bytes a second that a node ships to the archive at most; 0 = no limit.", size=True
    )
    archive_wait_ms: int = _key(
        10_000,
        "How long a DROP waits for what is not in the archive yet, and a node that ends for that "
        "and for its backups; beyond that it goes on, and what is lost is counted.",
        low=0,
    )
