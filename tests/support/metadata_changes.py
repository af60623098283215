"""Everything that changes metadata, and the commands that it is: each kind of statement, each
route, and what happens by itself. `tests/cluster/metadata/test_writers.py` holds these lists to
the code, `tests/cluster/test_every_change.py` to the logs of three real voters.
"""

from __future__ import annotations

from collections import Counter

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
    (
        "ALTER TABLE e SET (replicas = 2)",
        "SetOptions",
        ["StartJob", "SetReplicas", "DropCopy", "EndJob"],
    ),
    ("DROP TABLE e", "DropTable", ["DropTable"]),
]
# Kinds of statements that change no metadata; COPY into a table does what INSERT does.
HARMLESS_STATEMENTS = {
    "Select", "Update", "Delete", "Truncate", "CopyFrom", "CopyTo", "Reindex", "SetVariable",
    "Show", "Describe", "Explain", "Transaction", "Wait", "Kill", "CreateExtension", "CheckTable",
}  # fmt: skip
HARMLESS_ACTIONS = {"SetStorage"}  # of ALTER TABLE; the others are each in a text above

# Routes that change metadata, besides statements; what the test asks of each is beside it.
ROUTES: dict[tuple[str, str], list[str]] = {
    ("POST", "/v1/keys"): ["CreateUser", "CreateKey"],
    ("POST", "/v1/keys/{key}/rotate"): ["RotateKey"],
    ("DELETE", "/v1/keys/{key}"): ["RevokeKey"],
    ("POST", "/v1/revocations"): ["RevokeToken"],
    ("POST", "/v1/login"): ["CreateKey"],
    ("DELETE", "/v1/login"): ["RevokeKey"],
    ("POST", "/v1/cluster/tokens"): ["CreateJoinToken"],
    ("POST", "/v1/cluster/move"): ["StartJob", "MoveStart", "Promote", "MoveCommit", "EndJob"],
    ("POST", "/v1/cluster/rebalance"): ["StartJob", "EndJob"],
    # A node that is emptied, and may have copies again; one that waits for another node.
    ("POST", "/v1/cluster/drain"): [
        "StartJob", "MoveStart", "MoveCommit", "EndJob", "DrainNode", "StartJob", "NoteJob",
    ],
    ("DELETE", "/v1/jobs/{job}"): ["StartJob", "EndJob", "MoveStart", "MoveAbort", "EndJob"],
    # The second promotes a copy that was not in sync.
    ("POST", "/v1/cluster/failover"): [
        "StartJob", "Promote", "EndJob", "UncleanPromote", "StartJob", "EndJob",
    ],
    ("DELETE", "/v1/cluster/nodes/{node}"): ["RemoveNode"],
    ("POST", "/v1/restore"): ["CreateTable", "CopyReady", "TableReady", "PublishRestored"],
}  # fmt: skip
# Routes that send statements or rows, whose changes are those of the statements above.
BY_STATEMENT = {("POST", "/v1/sql"), ("POST", "/v1/tables/{table}/rows")}
# Routes that write elsewhere: the test asks for it, too, for something to restore.
HARMLESS_ROUTES = {("POST", "/v1/backup")}

# What happens by itself: command -> by what the test brings it about.
BY_ITSELF: dict[str, str] = {
    "Initialise": "the first start",
    "RegisterNode": "each start of a process",
    "RaiseFeatureLevel": "the first start",
    "FenceNode": "a node that is killed",
    "IsrChange": "the same node, come back",
    "CopyLost": "files of a copy that are gone when its node comes back",
}
# Nobody proposes these yet: there is no statement, route or setting for it.
UNUSED = {"ChangeSetting"}


def wanted() -> Counter[str]:
    """How often each command must be in a log at least, after all of the above."""
    made = [*(commands for _, _, commands in STATEMENTS), *ROUTES.values(), [*BY_ITSELF]]
    return Counter(name for commands in made for name in commands)
