"""A repository in a bucket, by Arrow's own client of S3, which is in pyarrow already.

Keys come from a file that a setting names, else from where AWS's clients look: variables, profiles,
roles of the machine. They are in no message: what is told of a store is its bucket and prefix.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import fs

from nearql.engine.errors import InvalidRequest, Unavailable
from nearql.server.backup.store import CHUNK_BYTES, Stored, checked, missing

SCHEME = "s3://"
_CONNECT_S, _REQUEST_S = 5, 60
_UNFINISHED = "objects/unfinished"  # no object is called so: a prune removes what a kill left there
_COPY_BYTES = 4 << 30


@dataclass(frozen=True, slots=True)
class S3Options:
    """endpoint: URL of a server other than AWS's; path_style is used there. key_file: two lines,
    the key's id and the secret.
    """

    endpoint: str = ""
    region: str = ""
    key_file: str = ""


class S3Store:
    """See `store.Store`. An upload counts when it is completed, and one that breaks off can only be
    completed with what it has. So it has a name of its own until it is whole: under the object's it
    would take the place of what another one put there meanwhile, and then away.
    """

    def __init__(self, url: str, options: S3Options) -> None:
        """Opens no connection.

        Raises:
            InvalidRequest: no bucket in the URL, or a key file that can't be read.
        """
        self._root = root_of(url)
        self._fs: Any = fs.S3FileSystem(**_arguments(options))

    @property
    def location(self) -> str:
        """See `Store.location`."""
        return SCHEME + self._root

    def put(self, name: str, parts: Iterable[bytes | memoryview]) -> int:
        """See `Store.put`."""
        path = self._path(name)
        with self._asking(f"writing {name}"):
            if isinstance(parts, list):  # all is here: nothing can break off but the way there
                return self._write(path, parts)
            working = self._path(f"{_UNFINISHED}/{uuid.uuid4().hex}")
            try:
                size = self._write(working, parts)
                if size <= _COPY_BYTES:
                    self._fs.copy_file(working, path)
                else:  # more than a bucket copies by itself
                    self._write(path, self._pieces(working))
            finally:
                with suppress(OSError):
                    self._fs.delete_file(working)
        return size

    def _write(self, path: str, parts: Iterable[bytes | memoryview]) -> int:
        size = 0
        with self._fs.open_output_stream(path) as stream:
            for part in parts:
                stream.write(part)
                size += len(part)
        return size

    def _pieces(self, path: str) -> Iterator[bytes]:
        with self._fs.open_input_file(path) as stream:
            while piece := stream.read(CHUNK_BYTES):
                yield piece

    def get(self, name: str) -> Iterator[bytes]:
        """See `Store.get`."""
        with self._asking(f"reading {name}"):
            try:
                stream = self._fs.open_input_file(self._path(name))
            except FileNotFoundError:
                raise missing(name, self.location) from None
        with stream:
            while True:
                with self._asking(f"reading {name}"):
                    piece: bytes = stream.read(CHUNK_BYTES)
                if not piece:
                    return
                yield piece

    def size(self, name: str) -> int | None:
        """See `Store.size`."""
        with self._asking(f"looking for {name}"):
            found = self._fs.get_file_info(self._path(name))
        return int(found.size) if found.type == fs.FileType.File else None

    def list(self, prefix: str) -> list[Stored]:
        """See `Store.list`."""
        selector = fs.FileSelector(self._path(prefix), recursive=True, allow_not_found=True)
        with self._asking(f"listing {prefix}"):
            found = self._fs.get_file_info(selector)
        start = len(self._root) + 1
        files = (one for one in found if one.type == fs.FileType.File)
        stored = [Stored(one.path[start:], one.size, one.mtime.timestamp()) for one in files]
        return sorted(stored, key=lambda one: one.name)

    def remove(self, name: str) -> None:
        """See `Store.remove`."""
        with self._asking(f"removing {name}"), suppress(FileNotFoundError):
            self._fs.delete_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{checked(name)}"

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Unavailable(
                f"The repository {self.location} can't be used: {what}: {_brief(error)}",
                code="repository_unavailable",
            ) from error


def root_of(url: str) -> str:
    """`bucket/prefix` of a URL.

    Raises:
        InvalidRequest: it names no bucket.
    """
    root = url.removeprefix(SCHEME).rstrip("/")
    parts = root.split("/")
    if not url.startswith(SCHEME) or not all(parts) or any(p in (".", "..") for p in parts):
        raise InvalidRequest(f"{url[:200]!r} names no bucket: write s3://bucket/prefix.")
    return root


def _arguments(options: S3Options) -> dict[str, Any]:
    found: dict[str, Any] = {
        "connect_timeout": _CONNECT_S,
        "request_timeout": _REQUEST_S,
        "region": options.region or None,
    }
    if options.endpoint:
        scheme, _, host = options.endpoint.rpartition("://")
        found |= {"endpoint_override": host.rstrip("/"), "scheme": scheme or "https"}
    if options.key_file:
        found["access_key"], found["secret_key"] = _keys(Path(options.key_file))
    return {name: value for name, value in found.items() if value is not None}


def _keys(file: Path) -> tuple[str, str]:
    try:
        key, secret = file.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError, ValueError):
        raise InvalidRequest(
            f"backup.s3_key_file {file} must be readable and hold two lines: the access key's id, "
            "and the secret."
        ) from None
    return key, secret


def _brief(error: OSError) -> str:
    """The first line of what the client says: the rest is about its insides."""
    return (str(error).splitlines() or [type(error).__name__])[0][:400]
