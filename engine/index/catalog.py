"""A table's indexes: what is declared, what is built, what the builder does next.

A built index hangs on the data of its segment (`SegmentData.indexes`), so that a read view finds
the one that belongs to its rows for as long as it is held, and memory goes with the last of them.

    declared ----ask----> queued -> training -> building -> (file) -> ready
                 ^                      |                        |
                 |                      +--- DROP, TRUNCATE, close: called off, nothing is left
                 +--- a checkpoint seals, joins or compacts segments: what is new is built

Invariants: the file of an index is durable before a search uses it; a search never waits for a
build; rows without an index are read, so that answers are complete at every moment.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nearql.engine.context import EngineContext
from nearql.engine.costs import BITS_COST, CODE_COST
from nearql.engine.errors import Corruption, NearQLError, StorageFull
from nearql.engine.index.base import BuildCancelled, IndexKind, Source, VectorIndex
from nearql.engine.index.carried import CarriedIndex, Part
from nearql.engine.index.choice import kind_for, least_rows
from nearql.engine.index.declared import Declared, Scan, Usable, declared_as, usable
from nearql.engine.index.files import IndexFiles, file_name
from nearql.engine.index.plan import Indexed
from nearql.engine.index.profiles import Profiles
from nearql.engine.index.progress import IndexProgress, Running, Task, phase_of, rate_of
from nearql.engine.index.rows import coverable
from nearql.engine.index.tuner import Tuning
from nearql.engine.schema import IndexDef, TableSchema
from nearql.engine.search import VectorSlice
from nearql.engine.search_derived import DerivedSearcher
from nearql.engine.segment.data import SegmentData
from nearql.engine.segment.view import SegmentView
from nearql.engine.shard.state import ShardView
from nearql.engine.tuning import NEAREST, Profile, derived, measure
from nearql.engine.types import ROW_COLUMN, SearchRequest

logger = logging.getLogger(__name__)

NOTHING_BUILT = "nothing is built: searches that it is for are exact"
_DEAD_SHARE = 0.1  # above it dead rows are left out of a new index


class IndexedShard(Protocol):
    """A shard, as its indexes see it."""

    @property
    def directory(self) -> Path:
        """Where its files are."""

    def read_view(self) -> ShardView:
        """The newest read view."""

    def sealed_files(self) -> list[tuple[SegmentData, str]]:
        """Segments of the last checkpoint with the names of their files."""

    def checkpoint(self, *, join: bool) -> None:
        """Seal the growing segment, among others. join: those that wait for an index as one."""

    @property
    def joinable(self) -> bool:
        """Whether there are several that wait for an index and that would be one."""


class _TurnGiven(Exception):
    """A build waits for memory, and other tables for the builder: they go first."""


class TableIndexes:
    """Thread-safe. `declare` first; `close` calls off what is under way."""

    def __init__(self, table: str, shards: Sequence[IndexedShard], context: EngineContext) -> None:
        self._table = table
        self._shards = shards
        self._context = context
        self._files = [IndexFiles(context.fs, shard.directory) for shard in shards]
        self._lock = threading.Lock()
        self._schema: TableSchema | None = None
        self._declared: tuple[Declared, ...] = ()
        self._recorded: tuple[str, ...] = ()  # of which nothing is built
        self._usable: Usable = {}
        self.scan: Scan | None = None  # set by the table: rows for conditions of indexes
        self.generation = 0  # rises with every change of what `over` answers
        self._failed: dict[tuple[str, str], str] = {}  # by task: why
        self._profiles = Profiles()
        self._tuning = Tuning(self.tune, context)
        self._running: Running | None = None
        self._waiting: Declared | None = None  # for memory, while others have the builder
        self._seals_wanted = 0  # how often growing segments were to be sealed ...
        self._seals_done = 0  # ... and up to which of these they are
        self._seal_at_rows = context.settings.index_seal_rows  # more after a disk was full
        self._closed = False

    # ---- Declaring -------------------------------------------------------------------------

    def declare(self, schema: TableSchema, definitions: Sequence[IndexDef]) -> None:
        """These are the table's indexes from now on; `open` or `refresh` follows."""
        terms = self._context.index_terms
        found = tuple(
            one for d in definitions if (one := declared_as(schema, d, terms)) is not None
        )
        kept = {one.definition.uuid for one in found}
        with self._lock:
            self._schema = schema
            self._declared = found
            self._recorded = tuple(one.uuid for one in definitions if one.uuid not in kept)
            self._usable = usable(found)
            self._failed = {key: why for key, why in self._failed.items() if key[0] in kept}
        for segment in self._segments():
            for uuid in set(segment.data.indexes) - kept:
                segment.data.indexes.pop(uuid, None)
        self._changed()

    def open(self) -> None:
        """Take over the files that are there. A damaged one is set aside and built again."""
        for task in list(self._missing()):
            self._opened(task, verify=True)
        self.refresh(seal=True)  # what a kill kept from being sealed

    def rebuild(self, uuids: Sequence[str]) -> None:
        """Build these anew; meanwhile the old ones answer."""
        with self._lock:
            self._failed = {k: why for k, why in self._failed.items() if k[0] not in uuids}
        for number, shard in enumerate(self._shards):
            for data, file in shard.sealed_files():
                for uuid in uuids:
                    old = data.indexes.get(uuid)
                    if old is not None and not isinstance(old, CarriedIndex):
                        self._files[number].remove(file_name(uuid, file))
                        data.indexes[uuid] = CarriedIndex([Part(0, data.rows, old)])
        self._changed()
        self.refresh(seal=True)

    def refresh(self, *, seal: bool = False) -> None:
        """Have the builder look for what is missing.

        seal: rows in memory are written to files first, so that they are indexed.
        """
        with self._lock:
            self._seals_wanted += seal
            if self._closed:
                return
        self._context.index_builder.ask(self)

    def after_write(self) -> None:
        """Have rows sealed, and so indexed, before reading them takes long."""
        if not self._declared or self._seals_wanted > self._seals_done:
            return
        if any(_growing(shard.read_view()) >= self._seal_at_rows for shard in self._shards):
            self.refresh(seal=True)

    def close(self) -> None:
        """Call off the build under way and wait for its end; finished files stay."""
        with self._lock:
            self._closed = True
        self._tuning.stop()
        self._context.index_builder.forget(self)
        self._context.index_tuner.forget(self._tuning)

    # ---- Searching -------------------------------------------------------------------------

    def asked(self, column: int, request: SearchRequest) -> bool:
        """Note a search; whether there are indexes that may serve it."""
        subject = column, request.metric, request.derived
        if subject not in self._usable:
            return False
        if self._profiles.asked(subject, request) and self._tuning.quiet_ms:
            self._context.index_tuner.ask(self._tuning)
        return True

    def over(
        self, segments: Sequence[SegmentData], column: int, request: SearchRequest
    ) -> Sequence[Indexed | None]:
        """The index that a search may ask for each of these segments; None = there is none.

        Of several, one over some rows alone, as it has fewer; else the one that was declared last.
        """
        found = self._usable.get((column, request.metric, request.derived), ())
        permitted = [
            one.definition
            for one in found
            if not one.is_partial or one.definition.uuid in request.partial
        ]
        return [self._indexed(data, permitted) for data in segments]

    def _changed(self) -> None:
        """Indexes came, went or are known better: nobody goes by what was looked up before."""
        with self._lock:
            self.generation += 1
        for segment in self._segments():
            segment.forget_plans()

    def _indexed(self, data: SegmentData, usable: Sequence[IndexDef]) -> Indexed | None:
        for definition in usable:
            found = data.indexes.get(definition.uuid)
            if found is not None:
                return self._profiles.indexed(found, definition)
        return None

    # ---- Moving ----------------------------------------------------------------------------

    def moved(
        self, old: Sequence[SegmentView], new: SegmentView, kept: NDArray[np.bool_] | None
    ) -> None:
        """A checkpoint put the rows of `old`, those of them that are `kept`, into `new`."""
        uuids = {uuid for view in old for uuid in view.data.indexes}
        for uuid in uuids:
            parts, start, read = [], 0, 0
            for view in old:
                mine = None if kept is None else kept[read : read + view.data.rows]
                read += view.data.rows
                rows = view.data.rows if mine is None else int(np.count_nonzero(mine))
                parts.append(Part(start, rows, view.data.indexes.get(uuid), mine))
                start += rows
            if any(part.index is not None and part.rows for part in parts):
                new.data.indexes[uuid] = CarriedIndex([part for part in parts if part.rows])

    # ---- Building --------------------------------------------------------------------------

    def build_next(self) -> bool:
        """See `Buildable`: the largest segment first."""
        if self._closed:
            return False
        self._seal_growing()
        self._sweep()
        task = max(self._missing(), key=lambda task: task.data.rows, default=None)
        if task is not None:
            self._run(task, self._build)
            return True
        task = next(self._unmeasured(), None)
        if task is not None:
            self._run(task, self._measure)
            return True
        return False

    def tune(self) -> int:
        """Measure every index anew on the queries that were asked lately; how many were.

        An index of which too few were keeps what was measured before.
        """
        tuned = 0
        for task in list(self._built()):
            queries = self._profiles.lately(task.declared.subject)
            if queries is None or self._closed:
                continue
            try:
                self._profile(task, [queries], live=True)
                tuned += 1
            except BuildCancelled:
                break
            except StorageFull as error:
                logger.warning(
                    "what index %s was tuned to is not kept: %s", task.name, error.detail
                )
        return tuned

    def step(self, phase: str, done: int) -> None:
        """See `BuildWatch.step`."""
        with self._lock:
            running = self._running
            assert running is not None
            if self._closed or running.task.declared not in self._declared:
                raise BuildCancelled
            now = time.monotonic()
            started_s = running.started_s if phase == running.phase else now
            self._running = Running(running.task, phase, done, started_s, now)
        view = self._shards[running.task.shard].read_view()
        if not any(segment.data is running.task.data for segment in view.segments):
            raise BuildCancelled

    @property
    def threads(self) -> int:
        """See `BuildWatch.threads`."""
        return self._context.searcher.team.threads

    def _run(self, task: Task, work: Callable[[Task], None]) -> None:
        with self._lock:
            self._running = Running(task, "queued", 0, 0.0, 0.0)
            self._waiting = None
        try:
            work(task)
        except _TurnGiven:
            self._waiting = task.declared
        except BuildCancelled:
            logger.info("building index %s was called off", task.declared.definition.name)
        except StorageFull as error:
            self._fail(task, error.detail)
        except Exception as error:
            logger.exception("building index %s failed", task.declared.definition.name)
            self._fail(task, error.detail if isinstance(error, NearQLError) else repr(error))
        finally:
            with self._lock:
                self._running = None

    def _build(self, task: Task) -> None:
        declared = task.declared
        metric, options = declared.metric, declared.options
        source = self._source(task)
        covered = len(source.norms) if source.covered is None else np.count_nonzero(source.covered)
        if covered < max(task.kind.least_rows, self._least_covered(declared)):
            self._fail(task, "")
            return
        needed = task.kind.build_bytes(source, metric, options) + declared.made_bytes(task.data)
        if needed > self._context.memory.limit_bytes:
            self._fail(
                task,
                f"a build takes about {needed} bytes of memory, more than "
                f"engine.memory_limit ({self._context.memory.limit_bytes})",
            )
            return
        with self._context.memory.awaited(needed, self._waits()):
            made = replace(source, vectors=declared.vectors(task.data))
            index = task.kind.build(made, metric, options, self)
            self._files[task.shard].write(task.name, task.kind, index, source)
            del index  # the file takes its place
        self._opened(task, verify=False)

    def _waits(self) -> Callable[[], None]:
        """What is called again and again while there is no memory for a build."""
        first = True

        def check() -> None:
            nonlocal first
            self.step("waiting", 0)
            if not first and self._context.index_builder.wanted:
                raise _TurnGiven
            first = False  # tables that all wait for memory wait a moment each

        return check

    def _source(self, task: Task) -> Source:
        declared = task.declared
        source, valid = declared.source(task.data), declared.valid(task.data)
        view = self._view_of(task)
        if view is not None and view.live is not None and view.dead > _DEAD_SHARE * task.data.rows:
            valid = view.live if valid is None else valid & view.live
        if declared.is_partial:
            qualifying = self._qualifying(task)
            valid = qualifying if valid is None else valid & qualifying
        return replace(source, covered=coverable(source.norms, valid, declared.metric))

    def _qualifying(self, task: Task) -> NDArray[np.bool_]:
        """The rows of a segment that an index over some rows alone is to hold: bool (rows,)."""
        self.step("training", 0)
        declared, terms, schema = task.declared, self._context.index_terms, self._schema
        condition = declared.definition.condition
        assert terms is not None
        assert schema is not None
        assert self.scan is not None
        assert condition is not None
        rows = self.scan(task.shard, task.data, declared.term.reads)
        found = np.zeros(task.data.rows, np.bool_)
        first = int(rows.column(ROW_COLUMN)[0].as_py())
        found[terms.qualifying(schema, condition, rows) - first] = True
        return found

    def _least_covered(self, declared: Declared) -> int:
        """Of fewer rows an index over some alone is none: they are read as quickly."""
        return self._context.settings.index_min_rows if declared.is_partial else 0

    def _view_of(self, task: Task) -> SegmentView | None:
        segments = self._shards[task.shard].read_view().segments
        return next((segment for segment in segments if segment.data is task.data), None)

    def _opened(self, task: Task, *, verify: bool) -> None:
        source, metric = task.declared.source(task.data), task.declared.metric
        files = self._files[task.shard]
        try:
            index = files.open(task.name, task.kind, metric, source, verify=verify)
        except (Corruption, RuntimeError) as error:  # FAISS: what it can't read
            logger.warning("index file %s is set aside and built again: %s", task.name, error)
            files.set_aside(task.name)
            return
        if index is not None and task.declared in self._declared:
            packed = files.profile(task.name)
            if packed is not None and (profile := Profile.unpacked(packed)) is not None:
                self._profiles.put(index, profile)
            task.data.indexes[task.declared.definition.uuid] = index
            self._changed()

    def _measure(self, task: Task) -> None:
        """How well an index finds its nearest rows, before it is asked for the first time."""
        self.step("measuring", 0)
        vectors = task.declared.source(task.data).vectors
        index = task.data.indexes[task.declared.definition.uuid]
        rows = np.arange(index.rows) if index.covered is None else np.flatnonzero(index.covered)
        self._profile(task, derived(vectors, rows, index.metric), live=False)

    def _profile(self, task: Task, groups: Sequence[NDArray[np.float32]], *, live: bool) -> None:
        index = task.data.indexes.get(task.declared.definition.uuid)
        if index is None or isinstance(index, CarriedIndex):
            return
        declared = task.declared
        made = declared.made_bytes(task.data)
        with self._context.memory.awaited(made, self._check_open) if made else nullcontext():
            profile = self._measured(task, index, groups, live=live)
        if task.data.indexes.get(declared.definition.uuid) is index:  # not built anew
            self._profiles.put(index, profile)
            self._changed()
            self._files[task.shard].write_profile(task.name, profile.packed())

    def _measured(
        self, task: Task, index: VectorIndex, groups: Sequence[NDArray[np.float32]], *, live: bool
    ) -> Profile:
        declared, searcher = task.declared, self._context.searcher
        source, vectors = declared.source(task.data), declared.vectors(task.data)
        rows = VectorSlice(vectors, 0, index.covered, source.norms)
        if index.metric.is_of_bits:
            rows = VectorSlice(source.vectors, 0, index.covered, source.norms)
            searcher = DerivedSearcher(searcher, self._context.column_cache)

        def truth(queries: NDArray[np.float32], k: int) -> NDArray[np.float32]:
            request = SearchRequest("", index.metric, queries, k)
            return searcher.search([rows], request, masks=None, keys_of=lambda at: at).distances

        coded = declared.term.derived is None and searcher.backend.codes(
            index.metric, NEAREST[0], 1
        )
        row_bytes = CODE_COST * vectors.shape[1] if coded else vectors.strides[0]
        if index.metric.is_of_bits:
            row_bytes *= BITS_COST
        return measure(
            index, vectors, truth, groups, live=live, check=self._check_open, team=searcher.team,
            most_us=searcher.machine.scan_us(len(vectors), row_bytes),
        )  # fmt: skip

    def _check_open(self) -> None:
        if self._closed:
            raise BuildCancelled

    def _fail(self, task: Task, why: str) -> None:
        if why:
            logger.warning("no index %s: %s", task.declared.definition.name, why)
        with self._lock:
            self._failed[task.key] = why

    def _seal_growing(self) -> None:
        wanted = self._seals_wanted
        if wanted == self._seals_done:
            return
        enough = [rows for rows in map(self._least, self._declared) if rows is not None]
        for shard in self._shards:
            if enough and (_growing(shard.read_view()) >= min(enough) or shard.joinable):
                self._checkpoint(shard)
        with self._lock:
            self._seals_done = wanted

    def _checkpoint(self, shard: IndexedShard) -> None:
        try:
            shard.checkpoint(join=True)
            self._seal_at_rows = self._context.settings.index_seal_rows
        except StorageFull as error:
            logger.warning("rows of table %s stay un-indexed: %s", self._table, error.detail)
            self._seal_at_rows = 2 * _growing(shard.read_view())
        except Exception as error:
            self._context.on_fatal(f"the checkpoint of table {self._table} failed: {error!r}")
            raise

    def _sweep(self) -> None:
        """Drop files of indexes and segments that are gone."""
        uuids = [one.definition.uuid for one in self._declared]
        for shard, files in zip(self._shards, self._files, strict=True):
            names = [file for _, file in shard.sealed_files()]
            files.keep_only(file_name(uuid, name) for uuid in uuids for name in names)

    # ---- Looking ---------------------------------------------------------------------------

    def _segments(self) -> Iterator[SegmentView]:
        for shard in self._shards:
            yield from shard.read_view().segments

    def _least(self, declared: Declared) -> int | None:
        least = self._context.settings.index_min_rows
        return least_rows(declared.definition, least, declared.row_bytes)

    def _kind_for(self, declared: Declared, data: SegmentData) -> IndexKind | None:
        least = self._context.settings.index_min_rows
        return kind_for(declared.definition, data.rows, least, declared.row_bytes)

    def _missing(self) -> Iterator[Task]:
        for number, shard in enumerate(self._shards):
            shown = {id(segment.data) for segment in shard.read_view().segments}
            for data, file in shard.sealed_files():
                for declared in self._declared:
                    kind = self._kind_for(declared, data)
                    if kind is None or id(data) not in shown or not _lacks(data, declared):
                        continue
                    task = Task(number, declared, kind, data, file)
                    if task.key not in self._failed:
                        yield task

    def _built(self) -> Iterator[Task]:
        """The indexes that are there."""
        for number, shard in enumerate(self._shards):
            for data, file in shard.sealed_files():
                for declared in self._declared:
                    kind = self._kind_for(declared, data)
                    found = data.indexes.get(declared.definition.uuid)
                    if kind is None or found is None or isinstance(found, CarriedIndex):
                        continue
                    yield Task(number, declared, kind, data, file)

    def _unmeasured(self) -> Iterator[Task]:
        for task in self._built():
            index = task.data.indexes[task.declared.definition.uuid]
            if task.key not in self._failed and self._profiles.of(index) is None:
                yield task

    def progress(self) -> dict[str, IndexProgress]:
        """By uuid."""
        with self._lock:
            running, sealing = self._running, self._seals_wanted > self._seals_done
            waiting = self._waiting
            failed = {key[0]: why for key, why in self._failed.items() if why}
        missing = [*self._missing(), *self._unmeasured()]
        total = sum(segment.data.rows - segment.dead for segment in self._segments())
        found = {
            uuid: IndexProgress("ready", total, total, None, 0, 0, NOTHING_BUILT)
            for uuid in self._recorded
        }
        for declared in self._declared:
            uuid = declared.definition.uuid
            mine = running if running is not None and running.task.declared is declared else None
            rows = sum(task.data.rows for task in missing if task.declared is declared)
            pending = rows - (mine.done if mine is not None and mine.phase == "building" else 0)
            if sealing and self._least(declared) is not None:
                pending = total
            rate = rate_of(mine)
            found[uuid] = IndexProgress(
                phase=phase_of(mine, pending, failed.get(uuid), waiting is declared),
                rows_done=max(0, total - pending), rows_total=total, rate=rate,
                eta_ms=0 if not pending else int(1000 * pending / rate) if rate else None,
                bytes=self._bytes(uuid), detail=failed.get(uuid),
            )  # fmt: skip
        return found

    def _bytes(self, uuid: str) -> int:
        held = [segment.data.indexes.get(uuid) for segment in self._segments()]
        return sum(index.nbytes for index in held if index is not None)


def _growing(view: ShardView) -> int:
    """Rows that are in no file yet."""
    return max((segment.data.rows for segment in view.segments if not segment.sealed), default=0)


def _lacks(data: SegmentData, declared: Declared) -> bool:
    if declared.lacks(data):
        return False
    found = data.indexes.get(declared.definition.uuid)
    return found is None or isinstance(found, CarriedIndex)
