"""PEP 249 (DB-API 2.0): what `import nearql.dbapi` gives.

    connection = nearql.dbapi.connect("http://localhost:8470")
    cursor = connection.cursor()
    cursor.execute("SELECT id FROM docs WHERE title = ? ORDER BY vec <-> ? LIMIT 5", ["x", vector])
    cursor.fetchall()

`paramstyle` says `qmark`; a mapping takes `:name`, and `connect(paramstyle=...)` chooses another.
Every statement commits by itself: `commit` has nothing to do, and `rollback` after a write says so.
"""

from nearql.client.dbapi.connection import Connection, connect
from nearql.client.dbapi.cursor import Cursor
from nearql.client.dbapi.exceptions import (
    DatabaseError,
    DataError,
    Error,
    IntegrityError,
    InterfaceError,
    InternalError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
    Warning,
)
from nearql.client.dbapi.types import (
    BINARY,
    DATETIME,
    NUMBER,
    ROWID,
    STRING,
    Binary,
    Date,
    DateFromTicks,
    Time,
    TimeFromTicks,
    Timestamp,
    TimestampFromTicks,
)

apilevel = "2.0"
threadsafety = 2  # threads may share connections, not cursors
paramstyle = "qmark"

__all__ = [
    "BINARY", "DATETIME", "NUMBER", "ROWID", "STRING",
    "Binary", "Connection", "Cursor", "DataError", "DatabaseError", "Date", "DateFromTicks",
    "Error", "IntegrityError", "InterfaceError", "InternalError", "NotSupportedError",
    "OperationalError", "ProgrammingError", "Time", "TimeFromTicks", "Timestamp",
    "TimestampFromTicks", "Warning",
    "apilevel", "connect", "paramstyle", "threadsafety",
]  # fmt: skip
