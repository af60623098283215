"""Every command of metadata by its name, as the journal and the wire spell it."""

from __future__ import annotations

from nearql.cluster.metadata import commands
from nearql.cluster.metadata.access_commands import ACCESS_COMMANDS
from nearql.cluster.metadata.commands import Command

COMMANDS: dict[str, type[Command]] = {
    **commands.COMMANDS,
    **{command.__name__: command for command in ACCESS_COMMANDS},
}
