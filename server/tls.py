"""TLS of the HTTP port: from files that are read again when they change.

A new certificate holds for connections from then on; those that are open keep theirs. New files
are tried in a context of their own first, so that a certificate without its key changes nothing.
"""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import structlog

from nearql.server.config import ConfigError, HttpSection

log = structlog.get_logger("nearql.tls")
CHECK_EVERY_S = 1.0

Stamp = tuple[tuple[int, int, int], ...]


class Certificates:
    """The context of a server, kept in step with its two files."""

    def __init__(self, section: HttpSection) -> None:
        """Raises ConfigError where the files can't be read or don't belong together."""
        self._files = (Path(section.tls_cert_file), Path(section.tls_key_file))
        try:
            self._stamp = self._stamped()
            self.context = self._load(_new_context())
        except (OSError, ssl.SSLError) as error:
            names = f"http.tls_cert_file = {self._files[0]}, http.tls_key_file = {self._files[1]}"
            raise ConfigError(f"{names}: {_reason(error)}.") from None

    def _stamped(self) -> Stamp:
        found = (path.stat() for path in self._files)
        return tuple((s.st_ino, s.st_size, s.st_mtime_ns) for s in found)

    def _load(self, context: ssl.SSLContext) -> ssl.SSLContext:
        # Without a callback OpenSSL would ask the terminal for the password of an encrypted key.
        context.load_cert_chain(*self._files, password=lambda: "")
        return context

    def refresh(self) -> bool:
        """Read the files again if they changed; whether new ones are in force."""
        try:
            stamp = self._stamped()
            if stamp == self._stamp:
                return False
            self._stamp = stamp
            self._load(_new_context())
            self._load(self.context)
        except (OSError, ssl.SSLError) as error:
            log.error("file_not_reloaded", path=str(self._files[0]), reason=_reason(error))
            return False
        log.info("file_reloaded", path=str(self._files[0]))
        return True

    async def watch(self) -> None:
        """Refresh for ever."""
        while True:
            await asyncio.sleep(CHECK_EVERY_S)
            await asyncio.to_thread(self.refresh)


def _new_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    return context


def _reason(error: OSError) -> str:
    """Without what the files hold."""
    if isinstance(error, ssl.SSLError):
        if error.reason == "KEY_VALUES_MISMATCH":
            return "the key is not the certificate's"
        return f"no PEM certificate and unencrypted key ({error.reason or 'unreadable'})"
    return error.strerror or "unreadable"
