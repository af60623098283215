"""The section `backup` of the configuration."""

from __future__ import annotations

from dataclasses import dataclass

from nearql.server.setting import key as _key


@dataclass(frozen=True)
class BackupSection:
    """Where backups go."""

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
