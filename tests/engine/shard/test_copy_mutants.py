"""Each safety rule of a copy, broken on purpose: some test must notice."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from nearql.engine.errors import NearQLError
from nearql.engine.shard.checkpoint import CheckpointStore
from nearql.engine.shard.gate import CommitGate
from nearql.engine.shard.local_copy import LocalCopy
from nearql.engine.shard.shard import Shard
from nearql.engine.shard.snapshot_import import Import
from nearql.engine.shard.tail import Tail
from nearql.engine.storage.manifest import write_manifest
from nearql.engine.storage.wal_raw import LogEnd
from nearql.engine.storage.wal_shared import SharedWal
from support.copies import HandCopy, lead
from support.tables import Fatal

SEEDS = 16


def module_of(name: str) -> ModuleType:
    """The tests of a file of this folder, or beside it."""
    path = Path(__file__).parent / f"{name}.py"
    spec = importlib.util.spec_from_file_location(Path(name).name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


local = module_of("test_local_copy")
model = module_of("test_copies_model")
snapshots = module_of("test_snapshots")
log = module_of("../storage/test_wal_shared")


def pair() -> tuple[HandCopy, HandCopy]:
    """As the fixture of that name."""
    primary, replica = HandCopy(), HandCopy()
    lead(primary, replica)
    return primary, replica


def schedules() -> None:
    """Random ones, the first of which must not survive."""
    for seed in range(SEEDS):
        model.run(seed)


def with_pair(test: Callable[[tuple[HandCopy, HandCopy]], None]) -> Callable[[], None]:
    """The test, given its fixture."""
    return lambda: test(pair())


def _applies_what_is_not_committed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(CommitGate, "committed_lsn", property(lambda gate: gate._durable()))


def _applies_what_is_not_durable(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(CommitGate, "committed_lsn", property(lambda gate: gate.commit_lsn))


def _applies_the_whole_log_after_a_restart(patch: pytest.MonkeyPatch) -> None:
    replay = Shard._replay
    patch.setattr(Shard, "_replay", lambda shard, first, _: replay(shard, first, 1 << 60))


def _keeps_its_tail_when_it_steps_down(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Tail, "clear", lambda tail: None)


def _asks_the_gate_what_the_tail_has_applied(patch: pytest.MonkeyPatch) -> None:
    def last(copy: LocalCopy) -> int:
        committed = copy._gate.committed_lsn
        return committed if copy.leads is None else min(committed, copy._gate.start_lsn)

    patch.setattr(LocalCopy, "_last_from_log", last)


def _admits_writers_before_it_has_applied_the_old_log(patch: pytest.MonkeyPatch) -> None:
    lead_at = CommitGate.lead
    patch.setattr(CommitGate, "lead", lambda gate, epoch, _: lead_at(gate, epoch, 0))


def _takes_records_that_contradict_the_log(patch: pytest.MonkeyPatch) -> None:
    def never(wal: SharedWal, lsn: int) -> LogEnd | None:
        return None

    patch.setattr(SharedWal, "end_at", never)


def _forgets_a_promise(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("nearql.engine.shard.local_copy.write_meta", lambda *_: None)


def _keeps_epochs_that_were_cut_off(patch: pytest.MonkeyPatch) -> None:
    forget = SharedWal._forget_after

    def forgets_less(wal: SharedWal, lsn: int) -> None:
        epochs = list(wal._epochs)
        forget(wal, lsn)
        wal._epochs = epochs

    patch.setattr(SharedWal, "_forget_after", forgets_less)


def _cuts_without_lowering_the_hint(patch: pytest.MonkeyPatch) -> None:
    cut, write = SharedWal._cut, SharedWal._write_hint

    def cuts(wal: SharedWal, after_lsn: int) -> None:
        wal._write_hint = lambda **_: None  # type: ignore[method-assign]
        try:
            cut(wal, after_lsn)
        finally:
            wal._write_hint = lambda **how: write(wal, **how)  # type: ignore[method-assign]

    patch.setattr(SharedWal, "_cut", cuts)


def _cuts_what_is_committed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LocalCopy, "truncate", lambda copy, lsn: copy._wal.truncate(lsn))


def _trims_the_log_behind_a_snapshot(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LocalCopy, "_trim_to", lambda copy, wanted: wanted)
    init = LocalCopy.__init__

    def connects(copy: LocalCopy, shard: Shard, context: Any) -> None:
        init(copy, shard, context)
        shard.trims = lambda wanted: wanted

    patch.setattr(LocalCopy, "__init__", connects)


def _removes_files_that_are_being_read(patch: pytest.MonkeyPatch) -> None:
    remove = CheckpointStore.remove_orphans

    def removes(store: CheckpointStore) -> None:
        store.pinned.clear()
        remove(store)

    patch.setattr(CheckpointStore, "remove_orphans", removes)


def _installs_without_verifying(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Import, "_verify", lambda taken: None)


def _begins_the_new_log_anywhere(patch: pytest.MonkeyPatch) -> None:
    begin = SharedWal.open.__func__  # type: ignore[attr-defined]

    def opens(kind: type[SharedWal], *args: Any, **options: Any) -> SharedWal:
        options.pop("base", None)
        found: SharedWal = begin(kind, *args, **options)
        return found

    patch.setattr(SharedWal, "open", classmethod(opens))


def _takes_a_snapshot_that_is_older(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Import, "_check_newer", lambda taken: None)


def _leaves_remembered_requests_out(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(CheckpointStore, "_write_dedup", lambda store, dedup: None)


def _switches_before_the_log_is_there(patch: pytest.MonkeyPatch) -> None:
    """The manifest names the log that is about to be made."""

    def moves(taken: Import) -> None:
        manifest, _ = taken._manifest_here()
        for file in taken._manifest.files:
            taken._fs.rename(taken._directory / file.name, taken._shard.directory / file.name)
        taken._fs.sync_directory(taken._shard.directory)
        write_manifest(taken._fs, taken._shard.directory, manifest)

    patch.setattr(Import, "_move", moves)


MUTANTS: list[tuple[Callable[[pytest.MonkeyPatch], None], Callable[[], None]]] = [
    (
        _applies_what_is_not_committed,
        with_pair(local.test_a_write_is_visible_only_when_it_is_committed),
    ),
    (_applies_what_is_not_committed, schedules),
    (
        _applies_what_is_not_durable,
        with_pair(local.test_a_copy_applies_only_what_is_durable_on_its_own_disk),
    ),
    (_applies_the_whole_log_after_a_restart, schedules),
    (_keeps_its_tail_when_it_steps_down, schedules),
    (
        _asks_the_gate_what_the_tail_has_applied,
        with_pair(local.test_stepping_down_while_an_applier_runs_applies_nothing_twice),
    ),
    (
        _admits_writers_before_it_has_applied_the_old_log,
        with_pair(local.test_a_new_primary_admits_writers_when_it_has_applied_what_it_took_over),
    ),
    (
        _takes_records_that_contradict_the_log,
        with_pair(local.test_matching_records_are_skipped_and_contradicting_ones_reported),
    ),
    (_forgets_a_promise, schedules),
    (_keeps_epochs_that_were_cut_off, schedules),
    (
        _cuts_without_lowering_the_hint,
        lambda: log.test_a_kill_in_the_middle_of_a_cut_leaves_a_log_that_ends_there_or_later(),
    ),
    (_cuts_what_is_committed, with_pair(local.test_a_cut_takes_back_what_was_never_committed)),
    (_trims_the_log_behind_a_snapshot, snapshots.test_files_of_a_snapshot_stay_while_it_is_read),
    (_removes_files_that_are_being_read, snapshots.test_files_of_a_snapshot_stay_while_it_is_read),
    (
        _installs_without_verifying,
        snapshots.test_a_file_that_went_bad_after_it_was_written_is_fetched_again,
    ),
    (
        _begins_the_new_log_anywhere,
        snapshots.test_a_snapshot_is_a_checkpoint_and_the_log_goes_on_behind_it,
    ),
    (
        _takes_a_snapshot_that_is_older,
        snapshots.test_a_snapshot_of_another_shard_or_an_older_state_is_refused,
    ),
    (
        _leaves_remembered_requests_out,
        snapshots.test_requests_are_remembered_by_who_takes_a_snapshot,
    ),
    (
        _switches_before_the_log_is_there,
        lambda: snapshots.test_a_kill_at_any_step_of_installing_leaves_the_old_rows_or_the_new(0),
    ),
]


@pytest.mark.parametrize(
    ("mutant", "killer"), MUTANTS, ids=[f"{m.__name__[1:]}-{n}" for n, (m, _) in enumerate(MUTANTS)]
)
def test_a_broken_rule_is_noticed(
    mutant: Callable[[pytest.MonkeyPatch], None],
    killer: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mutant(monkeypatch)
    try:
        killer()
    except (AssertionError, NearQLError, Fatal, KeyError, OSError, pytest.fail.Exception):
        return
    pytest.fail("nobody noticed")
