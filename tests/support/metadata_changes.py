"""Everything that changes metadata, and the commands that it is: each kind of statement, each
route, and what happens by itself. `tests/cluster/metadata/test_writers.py` holds these lists to
the code, `tests/cluster/test_processes.py` to the logs of three real voters.
"""

from __future__ import annotations

# (text, kind of statement, commands).
STATEMENTS: list[tuple[str, str, list[str]]] = [
    (
        """CREATE TABLE d (
            id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, t TEXT, vec VECTOR(2))""",
        "CreateTable",
        ["CreateTable", "CopyReady", "TableReady"],
    ),
    ("INSERT INTO d (t, vec) VALUES ('a', '[1,2]')", "Insert", ["AllocateNumbers"]),
    ("ALTER TABLE d ADD COLUMN n INTEGER", "AlterTable", ["ReplaceSchema"]),
    ("ALTER TABLE d RENAME COLUMN n TO m", "AlterTable", ["ReplaceSchema"]),
    ("ALTER TABLE d DROP COLUMN m", "AlterTable", ["ReplaceSchema"]),
    ("ALTER TABLE d RENAME TO e", "AlterTable", ["ReplaceSchema"]),
    ("CREATE INDEX near ON e USING hnsw (vec vector_l2_ops)", "CreateIndex", ["CreateIndex"]),
    ("DROP INDEX near", "DropIndex", ["DropIndex"]),
    ("CREATE VIEW v AS SELECT id, t FROM e", "CreateView", ["CreateView"]),
    ("CREATE OR REPLACE VIEW v AS SELECT id FROM e", "CreateView", ["CreateView"]),
    ("DROP VIEW v", "DropView", ["DropView"]),
    ("CREATE USER ann WITH (role = reader)", "CreateUser", ["CreateUser"]),
    ("GRANT INSERT ON e TO ann", "ChangeGrants", ["ChangeGrants"]),
    ("REVOKE INSERT ON e FROM ann", "ChangeGrants", ["ChangeGrants"]),
    ("DROP USER ann", "DropUser", ["DropUser"]),
    ("DROP TABLE e", "DropTable", ["DropTable"]),
]
# Kinds of statements that change no metadata; COPY into a table does what INSERT does.
HARMLESS_STATEMENTS = {
    "Select", "Update", "Delete", "Truncate", "CopyFrom", "CopyTo", "Reindex", "SetVariable",
    "Show", "Describe", "Explain", "Transaction", "Wait", "Kill", "CreateExtension", "CheckTable",
}  # fmt: skip

# Kinds whose commands take more than three nodes to be carried out: who looks.
STATEMENTS_ELSEWHERE = {"SetOptions": "tests/cluster/failover/test_migration.py"}

# Routes that change metadata, besides statements; what the test asks of each is beside it.
ROUTES: dict[tuple[str, str], list[str]] = {
    ("POST", "/v1/keys"): ["CreateUser", "CreateKey"],
    ("POST", "/v1/keys/{key}/rotate"): ["RotateKey"],
    ("DELETE", "/v1/keys/{key}"): ["RevokeKey"],
    ("POST", "/v1/revocations"): ["RevokeToken"],
    ("POST", "/v1/login"): ["CreateKey"],
    ("DELETE", "/v1/login"): ["RevokeKey"],
    ("POST", "/v1/cluster/tokens"): ["CreateJoinToken"],
    ("POST", "/v1/cluster/drain"): ["StartJob", "NoteJob"],
    ("DELETE", "/v1/jobs/{job}"): ["EndJob"],
    ("POST", "/v1/cluster/failover"): ["StartJob", "Promote", "EndJob"],
}
# Routes that send statements or rows, whose changes are those of the statements above.
BY_STATEMENT = {("POST", "/v1/sql"), ("POST", "/v1/tables/{table}/rows")}

# Routes that need more than three nodes, or a repository: who looks.
LOOKED_AT_ELSEWHERE: dict[tuple[str, str], str] = {
    ("DELETE", "/v1/cluster/nodes/{node}"): "tests/cluster/test_members.py",
    ("POST", "/v1/cluster/move"): "tests/cluster/failover/test_migration.py",
    ("POST", "/v1/cluster/rebalance"): "tests/cluster/failover/test_migration.py",
    ("POST", "/v1/backup"): "tests/server/backup",
    ("POST", "/v1/restore"): "tests/server/backup",
}

# What happens by itself, or takes more than three nodes or a damaged disk: command -> who looks.
BY_ITSELF: dict[str, str] = {
    "Initialise": "tests/cluster/test_processes.py",
    "RegisterNode": "tests/cluster/test_processes.py",
    "IsrChange": "tests/cluster/test_processes.py",
    "FenceNode": "tests/cluster/test_processes.py",
    "RaiseFeatureLevel": "tests/cluster/test_processes.py",
}
"""These, too, are looked for in the logs of three real voters."""
ELSEWHERE: dict[str, str] = {
    "RemoveNode": "tests/cluster/test_members.py",
    "CopyLost": "tests/cluster/replication/test_broken_copies.py",
    "ChangeSetting": "tests/cluster/metadata/test_shards.py",
    "UncleanPromote": "tests/cluster/metadata/test_shards.py",
    "DrainNode": "tests/cluster/failover/test_migration.py",
    "MoveStart": "tests/cluster/failover/test_migration.py",
    "MoveCommit": "tests/cluster/failover/test_migration.py",
    "MoveAbort": "tests/cluster/failover/test_migration.py",
    "DropCopy": "tests/cluster/failover/test_migration.py",
    "PublishRestored": "tests/server/backup",
    "SetReplicas": "tests/cluster/failover/test_migration.py",
}
