"""TLS between nodes: 1.3 only, both ends prove their names by a private authority's certificates.

Raft's links and replication's use it alike. The files are read again when they change, so that a
certificate is renewed by replacing it.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nearql.engine.errors import InvalidRequest

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: the private authority, and this node's certificate and key."""

    ca: Path
    cert: Path
    key: Path

    def context(self, *, server: bool) -> ssl.SSLContext:
        """A context of what the files hold now.

        Raises:
            InvalidRequest: a file can't be read or does not fit.
        """
        purpose = ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT
        context = ssl.SSLContext(purpose)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(self.ca)
            context.load_cert_chain(self.cert, self.key)
        except (OSError, ssl.SSLError) as error:
            raise InvalidRequest(
                f"The certificate files {self.ca}, {self.cert} and {self.key} can't be used: "
                f"{error}. `nearql cluster certs` makes a set that fits.",
                code="bad_certificate",
            ) from error
        return context

    def stamp(self) -> tuple[float, ...]:
        """Changes when a file does."""
        return tuple(path.stat().st_mtime for path in (self.ca, self.cert, self.key))


class RenewedContext:
    """The context of what the files hold: made anew when one changes.

    While a new set is incomplete (a certificate without its key yet), the old one stays in use.
    """

    def __init__(self, files: TlsFiles, *, server: bool) -> None:
        """Raises InvalidRequest: a file can't be read or does not fit."""
        self._files, self._server = files, server
        self._context = files.context(server=server)
        self._stamp = files.stamp()

    def current(self) -> ssl.SSLContext:
        """For the next connection."""
        try:
            stamp = self._files.stamp()
            if stamp != self._stamp:
                self._context = self._files.context(server=self._server)
                self._stamp = stamp
        except (OSError, InvalidRequest) as error:
            logger.warning("the old certificate stays in use: %s", error)
        return self._context


def certified_names(certificate: Mapping[str, Any] | None) -> set[str]:
    """The names that a peer's certificate proves, given what `getpeercert` answers."""
    names: Any = (certificate or {}).get("subjectAltName", ())
    return {str(value) for kind, value in names if kind == "DNS"}
