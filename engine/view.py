"""A read view of a table: rows, vectors and counts of one instant, and what one can ask of them.

A row number is `shard << SHARD_SHIFT | position`. Segments hold contiguous positions, so a row's
place is found by bisection over the starts of all chunks, never in a map.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nearql.engine import spans, strategy
from nearql.engine.context import EngineContext
from nearql.engine.defaults import literal_default
from nearql.engine.derived import Derivation, DerivedRows
from nearql.engine.distance import canonical_distances
from nearql.engine.errors import InternalError, InvalidValue
from nearql.engine.index.catalog import TableIndexes
from nearql.engine.index.kept import Kept
from nearql.engine.index.search import search_indexed
from nearql.engine.schema import Column, TableSchema
from nearql.engine.search import Searcher, VectorSlice
from nearql.engine.search_derived import DerivedSearcher
from nearql.engine.segment.damage import check_keys
from nearql.engine.segment.view import SegmentView
from nearql.engine.shard.state import ShardView
from nearql.engine.text import TextIndexes
from nearql.engine.types import (
    ROW_COLUMN,
    SHARD_SHIFT,
    DistanceSpec,
    Metric,
    RowSet,
    SearchHits,
    SearchRequest,
    ShardPosition,
)
from nearql.engine.values import FEW_ROWS, Readers, take


@dataclass(frozen=True, eq=False)
class _Part:
    """A segment of the view.

    first_row: row number of its first row. mask_start: that row's place in its shard's masks, which
    have no gaps. shard: index of its shard in the view.
    """

    first_row: int
    mask_start: int
    shard: int
    segment: SegmentView


_Places = list[tuple[int, NDArray[np.int64]]]  # chunks, and positions in them


@dataclass(frozen=True, eq=False)
class _Pick:
    """Rows of a segment that a scan returns. offsets: int64, ascending; None = all."""

    part: _Part
    offsets: NDArray[np.int64] | None
    cached: bool = False  # whether this is just the segment without its dead rows

    @property
    def count(self) -> int:
        return self.part.segment.data.rows if self.offsets is None else len(self.offsets)


class TableView:
    """Implements `query.ports.TableView`. Immutable; holds its memory for as long as it is held."""

    def __init__(
        self,
        schema: TableSchema,
        shards: tuple[ShardView, ...],
        context: EngineContext,
        indexes: TableIndexes,
        texts: TextIndexes,
    ) -> None:
        self._schema = schema
        self._shards = shards
        self._context = context
        self._indexes = indexes
        self._sliced: dict[tuple[int, Any], tuple[list[_Part], list[VectorSlice]]] = {}
        self._indexed: dict[tuple[Any, ...], Kept] = {}
        self._texts = texts

    def without_damage(self) -> TableView:
        """The rows of segments that are whole: this view where all are."""
        whole = tuple(shard.without_damage() for shard in self._shards)
        if all(mine is other for mine, other in zip(self._shards, whole, strict=True)):
            return self
        return TableView(self._schema, whole, self._context, self._indexes, self._texts)

    def shows(self, schema: TableSchema, shards: tuple[ShardView, ...]) -> bool:
        """Whether this is the view of just these."""
        same = all(mine is other for mine, other in zip(self._shards, shards, strict=True))
        return same and self._schema is schema

    @property
    def schema(self) -> TableSchema:
        """The schema as of this view."""
        return self._schema

    @cached_property
    def positions(self) -> tuple[ShardPosition, ...]:
        """What the view reflects, per shard."""
        return tuple(ShardPosition(s.shard, s.epoch, s.lsn) for s in self._shards)

    @property
    def row_count(self) -> int:
        """Live rows."""
        return sum(shard.live for shard in self._shards)

    @property
    def data_version(self) -> tuple[int, ...]:
        """Schema version, then per shard the last LSN that changed rows, and the layout."""
        versions = ((shard.version, shard.layout) for shard in self._shards)
        return self._schema.version, *(number for pair in versions for number in pair)

    # ---- Scalars and vectors ---------------------------------------------------------------

    def scan(
        self,
        columns: Sequence[str],
        *,
        rows: RowSet | None = None,
        distances: Sequence[DistanceSpec] = (),
    ) -> pa.Table:
        """Live rows (those in `rows`): ROW_COLUMN first, then `columns`, then the distances.

        Scalars come in storage types, vectors as fixed-size lists of float32, HALFVEC too. No copy
        where every row of a segment qualifies.

        Raises:
            NotFound: no such column. InvalidValue: a distance to a vector of the wrong dimension.
        """
        wanted = [self._schema.column(name) for name in columns]
        for spec in distances:
            self._check_vector(spec.column, spec.query)
        picks = [pick for pick in self._picks(rows) if pick.count]
        self._context.memory.check(_copied_bytes(wanted, picks), "A scan")
        arrays = [_chunked([_row_numbers(pick) for pick in picks], pa.int64())]
        arrays += [self._scanned(column, picks) for column in wanted]
        arrays += [self._distances(spec, picks) for spec in distances]
        names = [ROW_COLUMN, *columns, *(spec.name for spec in distances)]
        return pa.Table.from_arrays(arrays, names=names)

    def take(self, columns: Sequence[str], rows: NDArray[np.int64]) -> pa.Table:
        """These rows' columns in the given order (repeats allowed), without ROW_COLUMN.

        Raises:
            NotFound: no such column. InternalError: a row number that the view doesn't hold.
        """
        wanted = [self._schema.column(name) for name in columns]
        parts, order = self._by_chunk(np.ascontiguousarray(rows, np.int64))
        return pa.Table.from_arrays(
            [self._gather(column, parts, order) for column in wanted], names=list(columns)
        )

    def values(self, columns: Sequence[str], rows: NDArray[np.int64]) -> list[list[Any]] | None:
        """As `take`, in Python's own objects, column by column; None where there are many rows, or
        a column whose values are no numbers, texts or booleans.

        Raises:
            NotFound, InternalError: as `take`.
        """
        if len(rows) > FEW_ROWS:
            return None
        numbers = [self._schema.column(name).number for name in columns]
        places = self._places(rows)
        return self._readers.values(numbers, places, rows - self._chunk_starts[places])

    @cached_property
    def _readers(self) -> Readers:
        return Readers([(part.segment.data.columns, chunk) for part, chunk in self._chunks])

    # ---- Filters and searches --------------------------------------------------------------

    def row_set(self, rows: NDArray[np.int64]) -> RowSet:
        """The filter that qualifies exactly these row numbers; dead ones never qualify."""
        masks = tuple(np.zeros(shard.span, np.bool_) for shard in self._shards)
        result = RowSet(masks, 0)
        self._places(rows)  # checks that they are all here
        for part, mine in zip(self._parts, self._by_part(rows), strict=True):
            mask = self._mask(part, result)
            mask[mine - part.first_row] = True
            if part.segment.live is not None:
                mask &= part.segment.live
        return RowSet(masks, sum(int(np.count_nonzero(mask)) for mask in masks))

    def search(self, request: SearchRequest) -> SearchHits:
        """Exact k nearest rows, ties by primary key; rows with NULL vectors never match.

        Raises:
            NotFound, InvalidValue: no such vector column, or queries of another dimension.
        """
        self._context.memory.check(0, "A search")
        column = self._check_searched(request)
        key = (
            id(self), column.number, request.metric, id(request.rows), request.tuning,
            request.derived, request.partial,
        )  # fmt: skip
        return self._context.batcher.search(
            key,
            request,
            self._search if spans.tracer is None else self._traced,
            pays=partial(self._pays, request.metric),
        )

    def _pays(self, metric: Metric, waiting: int) -> bool:
        if metric.is_of_bits or not strategy.shares(waiting):
            return False
        return self._context.searcher.backend.batches(metric, waiting)

    def _traced(self, request: SearchRequest) -> SearchHits:
        with spans.span("segments", k=request.k, queries=len(request.queries)) as span:
            hits = self._search(request)
            stats = hits.stats
            span.tell(
                segments=len(self._parts), strategy=stats.label, device=stats.device,
                candidates=stats.candidates, reranked=stats.reranked,
            )  # fmt: skip
            return hits

    def _search(self, request: SearchRequest) -> SearchHits:
        number = self._schema.column(request.column).number
        parts, slices = self._slices(number, request.derived)
        searcher = self._searcher(request)
        kept = self._kept(number, parts, request)
        if len(request.queries) == 1:
            masks_of = partial(self._masks, parts)
            hits = kept.at_once(searcher, slices, request, masks_of, self._keys_of)
            if hits is not None:
                return hits
        return search_indexed(
            searcher, slices, kept.indexes,
            request, masks=self._masks(parts, request.rows), keys_of=self._keys_of,
        )  # fmt: skip

    def _searcher(self, request: SearchRequest) -> Searcher:
        if request.derived is None:
            return self._context.searcher
        return DerivedSearcher(self._context.searcher, self._context.column_cache)

    def _kept(self, number: int, parts: Sequence[_Part], request: SearchRequest) -> Kept:
        """The indexes that the search may ask; looked up again when one has changed."""
        usable = self._indexes.asked(number, request)
        generation = self._indexes.generation
        key = number, request.metric, request.derived, request.partial
        kept = self._indexed.get(key)
        if kept is None or kept.generation != generation:
            indexes: Sequence[Any] = [None] * len(parts)
            if usable:
                data = [part.segment.data for part in parts]
                indexes = self._indexes.over(data, number, request)
            kept = self._indexed[key] = Kept(generation, indexes)
        return kept

    def search_range(
        self, column: str, metric: Metric, query: NDArray[np.float32], radius: float,
        *, inclusive: bool, rows: RowSet | None = None,
    ) -> SearchHits:  # fmt: skip
        """Every row nearer than `radius`, shape (1, matches), sorted by (distance, key)."""
        found = self._check_vector(column, query)
        parts = self._searched(found)
        return self._context.searcher.search_range(
            [_slice(part, found.number) for part in parts], metric=metric, query=query,
            radius=radius, inclusive=inclusive, masks=self._masks(parts, rows),
            keys_of=self._keys_of,
        )  # fmt: skip

    def text_scores(self, column: str, text: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Row numbers, ascending, and BM25 scores (> 0) of live rows that have a word of `text`.

        Raises:
            NotFound, InvalidValue: no such column, or it holds no text. TooLarge: see `text`.
        """
        found = self._schema.column(column)
        if found.type.name != "VARCHAR":
            raise InvalidValue(
                f"Column {found.name} is {found.type.display}; bm25() needs a TEXT column.",
                column=found.name,
            )
        ends = [shard.segments[-1].end if shard.segments else 0 for shard in self._shards]
        places = tuple((s.shard, s.layout, end) for s, end in zip(self._shards, ends, strict=True))
        rows, scores = self._texts.scores(
            found.number, places, text, partial(self._texts_in, found)
        )
        alive = self._alive(rows)
        return rows[alive], scores[alive]

    def _texts_in(
        self, column: Column, seen: Mapping[int, int]
    ) -> Iterator[tuple[NDArray[np.int64], pa.Array]]:
        """Row numbers and texts of row versions beyond those seen, shard -> their end."""
        for (part, chunk), start in zip(self._chunks, self._chunk_starts.tolist(), strict=True):
            shard = self._shards[part.shard].shard
            skipped = max(0, (shard << SHARD_SHIFT) + seen.get(shard, 0) - start)
            if skipped >= chunk.num_rows:
                continue
            offsets = np.arange(skipped, chunk.num_rows)
            data = part.segment.data
            if data.has(column.number):
                array = chunk.column(data.columns[column.number]).slice(skipped)
            else:
                array = self._filled(column, part, len(offsets))
            yield offsets + start, array

    # ---- Parts -----------------------------------------------------------------------------

    @cached_property
    def _parts(self) -> tuple[_Part, ...]:
        return tuple(part for place in range(len(self._shards)) for part in self._parts_of(place))

    def _parts_of(self, place: int) -> Iterator[_Part]:
        mask_start = 0
        for segment in self._shards[place].segments:
            first_row = (self._shards[place].shard << SHARD_SHIFT) + segment.data.base
            yield _Part(first_row, mask_start, place, segment)
            mask_start += segment.data.rows

    def _by_part(self, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Row numbers, sorted, by the part that holds them."""
        firsts = np.array([part.first_row for part in self._parts], np.int64)
        ordered = np.sort(rows)
        return np.split(ordered, np.searchsorted(ordered, firsts))[1:] if len(firsts) else []

    @cached_property
    def _chunk_starts(self) -> NDArray[np.int64]:
        """Row number of the first row of every chunk, ascending."""
        starts = [part.first_row + part.segment.data.starts for part in self._parts]
        return np.concatenate(starts) if starts else np.empty(0, np.int64)

    @cached_property
    def _chunks(self) -> tuple[tuple[_Part, pa.RecordBatch], ...]:
        return tuple((part, chunk) for part in self._parts for chunk in part.segment.data.chunks)

    def _picks(self, rows: RowSet | None) -> list[_Pick]:
        if rows is None:
            for part in self._parts:
                check_keys(part.segment.data)
            return [
                _Pick(part, part.segment.live_offsets if part.segment.dead else None, cached=True)
                for part in self._parts
            ]
        return [_pick(part, self._mask(part, rows)) for part in self._parts]

    def _mask(self, part: _Part, rows: RowSet) -> NDArray[np.bool_]:
        return rows.masks[part.shard][part.mask_start : part.mask_start + part.segment.data.rows]

    def _masks(self, parts: Sequence[_Part], rows: RowSet | None) -> list[Any] | None:
        return None if rows is None else [self._mask(part, rows) for part in parts]

    def _slices(
        self, number: int, derived: Derivation | None
    ) -> tuple[list[_Part], list[VectorSlice]]:
        """The parts that hold this vector column, and what a search needs of them; kept."""
        found = self._sliced.get((number, derived))
        if found is None:
            parts = [part for part in self._parts if part.segment.data.has(number)]
            slices = [_slice(part, number, derived) for part in parts]
            if derived is not None and len(parts) < len(self._parts):
                parts, slices = self._with_fills(number, derived, parts, slices)
            found = self._sliced[number, derived] = parts, slices
        return found

    def _with_fills(
        self, number: int, derived: Derivation, parts: list[_Part], slices: list[VectorSlice]
    ) -> tuple[list[_Part], list[VectorSlice]]:
        """With parts that were there before a column whose default is not NULL."""
        column = next(one for one in self._schema.columns if one.number == number)
        for part in self._parts:
            data = part.segment.data
            fill = None if data.has(number) else self._filled(column, part, 1)[0].as_py()
            if isinstance(fill, bytes):
                one = np.frombuffer(fill, np.uint8)
                rows: Any = DerivedRows(np.broadcast_to(one, (data.rows, len(one))), derived)
                slices.append(VectorSlice(rows, part.first_row, part.segment.live, rows.norms))
                parts.append(part)
        return parts, slices

    def _searched(self, column: Column) -> list[_Part]:
        return [part for part in self._parts if part.segment.data.has(column.number)]

    def _check_searched(self, request: SearchRequest) -> Column:
        if request.derived is None:
            return self._check_vector(request.column, request.queries)
        column = self._schema.column(request.column)
        if (dimensions := request.queries.shape[-1]) != request.derived.dimensions:
            raise InvalidValue(
                f"The expression over column {column.name} has {request.derived.dimensions} "
                f"dimensions; the query vector has {dimensions}.",
                code="dimension_mismatch", column=column.name,
            )  # fmt: skip
        return column

    def _check_vector(self, name: str, query: NDArray[np.float32]) -> Column:
        column = self._schema.column(name)
        if not column.type.is_vector:
            raise InvalidValue(
                f"Column {column.name} is {column.type.display}; a distance needs a vector column.",
                column=column.name,
            )
        if query.shape[-1] != column.type.dimensions:
            raise InvalidValue(
                f"Column {column.name} is {column.type.display}; the query vector has "
                f"{query.shape[-1]} dimensions.",
                code="dimension_mismatch", column=column.name,
            )  # fmt: skip
        return column

    def _keys_of(self, rows: NDArray[np.int64]) -> pa.Array:
        array = self._gather(self._schema.key, *self._by_chunk(rows))
        return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array

    # ---- Columns of a scan -----------------------------------------------------------------

    def _scanned(self, column: Column, picks: Sequence[_Pick]) -> pa.ChunkedArray:
        arrays: list[pa.Array] = []
        for pick in picks:
            arrays += self._scanned_segment(column, pick)
        return _chunked(arrays, _shown_type(column))

    def _scanned_segment(self, column: Column, pick: _Pick) -> list[pa.Array]:
        data = pick.part.segment.data
        if not data.has(column.number):
            return [self._filled(column, pick.part, pick.count)]
        if column.type.is_vector:
            if pick.offsets is None or not pick.cached:
                return [_vectors(data.vectors[column.number].take(_all(pick.offsets)))]
            return [self._cached(column, pick, lambda: _picked_vectors(column, pick))]
        if pick.offsets is None:
            return list(data.column(column.number).chunks)
        if not pick.cached:
            return [_picked(column, pick)]
        return [self._cached(column, pick, lambda: _picked(column, pick))]

    def _cached(self, column: Column, pick: _Pick, make: Any) -> pa.Array:
        key = pick.part.segment.token, column.number
        return self._context.column_cache.get(key, make)

    def _filled(self, column: Column, part: _Part, count: int) -> pa.Array:
        """A column that the segment doesn't store: it was added later."""
        fills = self._shards[part.shard].fills
        # A copy may know a column from metadata before it is in its part of the log.
        known = column.number in fills
        fill = fills[column.number] if known else literal_default(column)
        kind = _shown_type(column)
        return pa.nulls(count, kind) if fill is None else pa.repeat(fill, count).cast(kind)

    def _distances(self, spec: DistanceSpec, picks: Sequence[_Pick]) -> pa.ChunkedArray:
        column = self._schema.column(spec.column)
        arrays = [_distance_array(spec, column, pick) for pick in picks]
        return _chunked(arrays, pa.float32())

    # ---- Rows by number --------------------------------------------------------------------

    def _places(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The chunk of each row."""
        places = np.searchsorted(self._chunk_starts, rows, side="right") - 1
        if rows.size and (places.min() < 0 or not self._holds(rows, places)):
            raise InternalError("A row number is not in the read view that it is used with.")
        return places

    def _alive(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these row numbers, ascending, are live rows of the view."""
        places = np.searchsorted(self._chunk_starts, rows, side="right") - 1
        alive = places >= 0
        alive[alive] = rows[alive] < self._chunk_ends[places[alive]]
        for part in self._parts:
            if part.segment.live is not None:
                last = part.first_row + part.segment.data.rows
                low, high = np.searchsorted(rows, [part.first_row, last])
                alive[low:high] &= part.segment.live[rows[low:high] - part.first_row]
        return alive

    def _holds(self, rows: NDArray[np.int64], places: NDArray[np.int64]) -> bool:
        return bool((rows < self._chunk_ends[places]).all())

    @cached_property
    def _chunk_ends(self) -> NDArray[np.int64]:
        return self._chunk_starts + np.array([c.num_rows for _, c in self._chunks], np.int64)

    def _by_chunk(self, rows: NDArray[np.int64]) -> tuple[_Places, NDArray[np.int64] | None]:
        """The rows chunk by chunk, and where each then is; None where one chunk has them all."""
        places = self._places(rows)
        starts = self._chunk_starts
        if not rows.size or (places == places[0]).all():
            first = places[:1].tolist()
            return [(place, rows - starts[place]) for place in first], None
        order = np.argsort(places, kind="stable")
        places, offsets = places[order], (rows - starts[places])[order]
        bounds = [0, *(np.flatnonzero(np.diff(places)) + 1).tolist(), len(rows)]
        back = np.empty(len(rows), np.int64)
        back[order] = np.arange(len(rows))
        return [(int(places[a]), offsets[a:b]) for a, b in pairwise(bounds)], back

    def _gather(self, column: Column, parts: _Places, order: NDArray[np.int64] | None) -> pa.Array:
        """The column of the rows that `_by_chunk` found, in the order that was asked for."""
        pieces = [self._taken(column, place, offsets) for place, offsets in parts]
        if not pieces:
            return pa.array([], _shown_type(column))
        return pieces[0] if order is None else take(pa.concat_arrays(pieces), order)

    def _taken(self, column: Column, place: int, offsets: NDArray[np.int64]) -> pa.Array:
        """The column of rows of one chunk."""
        part, chunk = self._chunks[place]
        data = part.segment.data
        if not data.has(column.number):
            return self._filled(column, part, len(offsets))
        if column.type.is_vector:
            first = int(self._chunk_starts[place]) - part.first_row
            return _vectors(data.vectors[column.number].take(offsets + first))
        return take(chunk.column(data.columns[column.number]), offsets)


def _copied_bytes(columns: Sequence[Column], picks: Sequence[_Pick]) -> int:
    """About what a scan takes: vectors that are not just shown where they are."""
    row_bytes = sum(4 * column.type.dimensions for column in columns if column.type.dimensions)
    return row_bytes * sum(pick.count for pick in picks if pick.offsets is not None)


def _pick(part: _Part, mask: NDArray[np.bool_]) -> _Pick:
    offsets = np.flatnonzero(mask)
    return _Pick(part, None if len(offsets) == len(mask) else offsets)


def _all(offsets: NDArray[np.int64] | None) -> NDArray[np.int64] | slice:
    return slice(None) if offsets is None else offsets


def _row_numbers(pick: _Pick) -> pa.Array:
    first, data = pick.part.first_row, pick.part.segment.data
    if pick.offsets is None:
        return pa.array(np.arange(first, first + data.rows, dtype=np.int64))
    return pa.array(pick.offsets + first)


def _picked(column: Column, pick: _Pick) -> pa.Array:
    data = pick.part.segment.data
    assert pick.offsets is not None
    if len(data.chunks) == 1:
        place = data.columns[column.number]
        return data.chunks[0].column(place).take(pa.array(pick.offsets))
    mask = np.zeros(data.rows, np.bool_)
    mask[pick.offsets] = True
    return pa.concat_arrays(data.column(column.number).filter(pa.array(mask)).chunks)


def _picked_vectors(column: Column, pick: _Pick) -> pa.Array:
    return _vectors(pick.part.segment.data.vectors[column.number].take(_all(pick.offsets)))


def _slice(part: _Part, number: int, derived: Derivation | None = None) -> VectorSlice:
    """The segment's vectors for a search; kept with the segment view, as its statistics are."""
    return part.segment.vector_slice(number, part.first_row, derived)


def _distance_array(spec: DistanceSpec, column: Column, pick: _Pick) -> pa.Array:
    data = pick.part.segment.data
    if not data.has(column.number):
        return pa.nulls(pick.count, pa.float32())
    block = data.vectors[column.number].take(_all(pick.offsets))
    distances = canonical_distances(block.data, spec.query, spec.metric)
    return pa.array(distances, mask=None if block.valid is None else ~block.valid)


def _vectors(block: Any) -> pa.Array:
    """Vectors as a fixed-size list of float32; no copy where they are float32."""
    data = np.ascontiguousarray(block.data, np.float32)
    rows, dimensions = data.shape
    items = pa.Array.from_buffers(pa.float32(), data.size, [None, pa.py_buffer(data)])
    validity = None
    if block.valid is not None:
        validity = pa.py_buffer(np.packbits(block.valid, bitorder="little"))
    kind = pa.list_(pa.float32(), dimensions)
    return pa.Array.from_buffers(kind, rows, [validity], children=[items])


def _shown_type(column: Column) -> pa.DataType:
    if column.type.dimensions is not None:
        return pa.list_(pa.float32(), column.type.dimensions)
    return column.type.storage


def _chunked(arrays: list[pa.Array], kind: pa.DataType) -> pa.ChunkedArray:
    return pa.chunked_array(arrays, kind)
