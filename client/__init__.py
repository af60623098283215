"""What users import: connections, results, bulk loading. Depends on no other part of NearQL."""

from nearql.client.aio import AsyncConnection, aconnect
from nearql.client.loader import FailedRow, InsertReport
from nearql.client.result import Column, Result
from nearql.client.stream import BatchStream
from nearql.client.sync import Connection, connect
from nearql.client.transport import Call, Transport

__all__ = [
    "AsyncConnection",
    "BatchStream",
    "Call",
    "Column",
    "Connection",
    "FailedRow",
    "InsertReport",
    "Result",
    "Transport",
    "aconnect",
    "connect",
]
