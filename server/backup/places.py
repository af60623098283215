"""From what people write to a store: which places a node may use.

    directory        only one that is a repository already: somebody who may write there made it
    s3://b/p         only the one that `backup.repository` names, or below it

So nobody who can merely send requests makes a node write where it should not, nor reach other
machines with the node's credentials.
"""

from __future__ import annotations

from pathlib import Path

from nearql.engine.errors import Forbidden, InvalidRequest
from nearql.server.backup.repository import Repository, not_a_repository
from nearql.server.backup.s3 import SCHEME, S3Options, S3Store, root_of
from nearql.server.backup.settings import BackupSection
from nearql.server.backup.store import DirectoryStore, Store


def repository_for(location: str, section: BackupSection, expected_id: str = "") -> Repository:
    """The repository that a request, or the configuration, means. expected_id: where the one who
    asks knows it.

    Raises:
        InvalidRequest: no place is named. Forbidden: a bucket that the node may not use.
        NotFound: code `not_a_repository`: none is there, or another one than expected.
    """
    wanted = location or section.repository
    if not wanted:
        raise InvalidRequest(
            "Where is the backup? Name a repository, or set backup.repository of the node.",
            code="no_repository",
        )
    store, may_make = _place(wanted, section)
    if may_make and not expected_id:
        return Repository.open_or_make(store)
    found = Repository.open(store)
    if expected_id and found.id != expected_id:
        raise not_a_repository(store.location)
    return found


def _place(wanted: str, section: BackupSection) -> tuple[Store, bool]:
    """The store, and whether a repository may be made there."""
    if wanted.startswith(SCHEME):
        _check_bucket(wanted, section)
        return S3Store(wanted, s3_options(section)), True
    directory = Path(wanted)
    if not directory.is_absolute() or "\0" in wanted:
        raise InvalidRequest(f"{wanted[:200]!r} must be an absolute path.")
    return DirectoryStore(directory), wanted == section.repository and directory.is_dir()


def _check_bucket(wanted: str, section: BackupSection) -> None:
    allowed = section.repository
    if allowed.startswith(SCHEME):
        root, inside = root_of(allowed), root_of(wanted)
        if inside == root or inside.startswith(root + "/"):
            return
    raise Forbidden(
        f"This node may not use {wanted[:200]}: set backup.repository to it, or to what it is "
        "below, in the node's configuration.",
        code="repository_not_allowed",
    )


def store_at(location: str, options: S3Options) -> Store:
    """A store for a command that runs with its own user's rights: anywhere.

    Raises:
        InvalidRequest: a URL of something else than S3.
    """
    if location.startswith(SCHEME):
        return S3Store(location, options)
    if "://" in location:
        raise InvalidRequest(f"{location!r} is neither a directory nor s3://bucket/prefix.")
    return DirectoryStore(Path(location).absolute())


def s3_options(section: BackupSection) -> S3Options:
    """How the configuration says to reach a bucket."""
    return S3Options(section.s3_endpoint, section.s3_region, section.s3_key_file)
