"""Authentication and rights of one application, put together: `auth.mode = required`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from nearql.server.access import keys
from nearql.server.access.audit import AuditLog
from nearql.server.access.authenticate import Authenticator
from nearql.server.access.node import CheckedNodes
from nearql.server.access.store import AccessStore
from nearql.server.config import Config, ConfigError

if TYPE_CHECKING:
    from nearql.server.node import Node

log = structlog.get_logger("nearql.access")


class AccessLayer:
    """What the edge needs to know who asks and to show each his part of the node."""

    def __init__(self, node: Node, config: Config) -> None:
        """Raises ConfigError where no credential exists, or a file of secrets is wrong."""
        make_bootstrap_key(config.auth.bootstrap_admin_key_file)
        self.section = config.auth
        self.store: AccessStore = node.access
        self.audit = AuditLog(config.node.data_dir.absolute(), config.auth.audit_file)
        self.authenticate = Authenticator(self.store, config.auth)
        self.authenticate.check_present(self.store.state)
        self.nodes = CheckedNodes(node, self.audit)


def make_bootstrap_key(path: str) -> None:
    """Where the file is named and does not exist, write a new key into it, for its owner only.

    Raises:
        ConfigError: it can't be written.
    """
    if not path or Path(path).exists():
        return
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(keys.new_key() + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ConfigError(
            f"auth.bootstrap_admin_key_file = {path} does not exist and can't be made: "
            f"{error.strerror}."
        ) from error
    log.warning("bootstrap_key_made", path=path)
