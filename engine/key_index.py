"""Which row version of each key is live: key -> position, for every live row of a shard.

A Python dict takes 100 to 150 bytes a key, which for narrow vectors is as much as the vectors.
So integer keys live in two parts, and each key in one of them:

    recent    {key: position}                    the last ones put
    settled   keys       3   8   9  12  20       int64, sorted
              positions  7   0   -  41   5       int64; - = NOWHERE: it was removed or put again

When `recent` has grown to a share of `settled` the two are merged, so that a key costs 16 bytes and
is sorted O(log n) times. Text keys, and integers above int64, are kept in a dict.

Invariants: a key is in `recent` or has a position in `settled`, never both; `settled` has no key
twice; `_live` counts its positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nearql.engine.keys import NOWHERE, Key, keys_of

_RECENT_LEAST = 65_536  # keys that `recent` may always have ...
_RECENT_SHARE = 8  # ... and beyond that one for so many in `settled`
_EMPTY: NDArray[np.int64] = np.empty(0, np.int64)


class KeyIndex:
    """Not thread-safe: the shard's lock guards it. Holds exactly the keys of live rows."""

    def __init__(self) -> None:
        self._recent: dict[Key, int] = {}
        self._keys = _EMPTY
        self._positions = _EMPTY
        self._live = 0  # in `settled`
        self._loaded: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []  # not sorted in yet
        self._plain = False  # some key does not fit: all are in `recent`

    def __len__(self) -> int:
        self._settle_loaded()
        return len(self._recent) + self._live

    def __contains__(self, key: Key) -> bool:
        return bool(self.positions([key])[0] != NOWHERE)

    def overlaps(self, keys: Sequence[Key]) -> bool:
        """Whether any of the keys is held."""
        return bool((self.positions(keys) != NOWHERE).any())

    def positions(self, keys: Sequence[Key]) -> NDArray[np.int64]:
        """Position of each key, NOWHERE where it isn't held."""
        self._settle_loaded()
        found, _ = self._settled(keys)
        if self._recent and len(keys):
            get = self._recent.get
            recent = np.fromiter((get(key, NOWHERE) for key in keys), np.int64, len(keys))
            found = np.where(recent == NOWHERE, found, recent)
        return found

    def put(self, keys: Sequence[Key], first: int) -> NDArray[np.int64]:
        """Keys, each given once, now live at positions `first`, `first` + 1, ...

        Returns:
            The positions that they had before, without those that were new.
        """
        old = self.positions(keys)
        self._forget_settled(keys)
        self._recent.update(zip(keys, range(first, first + len(keys)), strict=True))
        if len(self._recent) > max(_RECENT_LEAST, len(self._keys) // _RECENT_SHARE):
            self._merge_recent()
        held: NDArray[np.int64] = old[old != NOWHERE]
        return held

    def remove(self, keys: Sequence[Key]) -> NDArray[np.int64]:
        """Forget keys; the positions of those that were held."""
        old = self.positions(keys)
        self._forget_settled(keys)
        if self._recent:
            for key in keys:
                self._recent.pop(key, None)
        held: NDArray[np.int64] = old[old != NOWHERE]
        return held

    def load(self, keys: pa.Array | pa.ChunkedArray, positions: NDArray[np.int64]) -> None:
        """Add keys of a key column that the index does not hold, at open."""
        numbers = None if self._plain else _integers(keys)
        if numbers is None:
            self._recent.update(zip(keys_of(keys), positions.tolist(), strict=True))
        else:
            self._loaded.append((numbers, positions))

    def move(self, keys: pa.Array | pa.ChunkedArray, positions: NDArray[np.int64]) -> None:
        """Held keys of a key column have other positions now."""
        self._settle_loaded()
        listed = keys_of(keys)
        _, places = self._settled(listed)
        settled = places != NOWHERE
        self._positions[places[settled]] = positions[settled]
        for at in np.flatnonzero(~settled).tolist():
            self._recent[listed[at]] = int(positions[at])

    def clear(self) -> None:
        """Forget everything."""
        self.__init__()  # type: ignore[misc]

    @property
    def nbytes(self) -> int:
        """About what it takes in memory."""
        return self._keys.nbytes + self._positions.nbytes + 110 * len(self._recent)

    # ---- The two parts ---------------------------------------------------------------------

    def _settled(self, keys: Sequence[Key]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(position, place in `settled`) of each key; NOWHERE twice where it isn't live there."""
        if not self._live or not len(keys):
            nowhere = np.full(len(keys), NOWHERE, np.int64)
            return nowhere, nowhere
        asked = _numbers(keys)
        if asked is None:
            nowhere = np.full(len(keys), NOWHERE, np.int64)
            known = [at for at, key in enumerate(keys) if _fits(key)]
            if known:  # others among them are beyond int64
                found, places = self._settled([keys[at] for at in known])
                whole, all_places = nowhere.copy(), nowhere.copy()
                whole[known], all_places[known] = found, places
                return whole, all_places
            return nowhere, nowhere
        places = np.minimum(np.searchsorted(self._keys, asked), len(self._keys) - 1)
        hit = self._keys[places] == asked
        positions = np.where(hit, self._positions[places], NOWHERE)
        return positions, np.where(positions != NOWHERE, places, NOWHERE)

    def _forget_settled(self, keys: Sequence[Key]) -> None:
        _, places = self._settled(keys)
        places = np.unique(places[places != NOWHERE])
        self._positions[places] = NOWHERE
        self._live -= len(places)

    def _merge_recent(self) -> None:
        numbers = None if self._plain else _numbers(list(self._recent))
        if numbers is None:
            self._plain = True
            return
        positions = np.fromiter(self._recent.values(), np.int64, len(self._recent))
        self._recent = {}
        self._merge([(numbers, positions)])

    def _settle_loaded(self) -> None:
        if self._loaded:
            loaded, self._loaded = self._loaded, []
            self._merge(loaded)

    def _merge(self, more: Iterable[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> None:
        live = self._positions != NOWHERE
        parts = [(self._keys[live], self._positions[live]), *more]
        keys = np.concatenate([part[0] for part in parts])
        positions = np.concatenate([part[1] for part in parts])
        order = np.argsort(keys, kind="stable")
        self._keys, self._positions = keys[order], positions[order]
        self._live = len(keys)

    def check_invariants(self) -> None:
        """Raise AssertionError where state contradicts itself."""
        self._settle_loaded()
        assert bool((np.diff(self._keys) > 0).all())
        assert self._live == int(np.count_nonzero(self._positions != NOWHERE))
        both = list(self._recent)
        assert bool((self._settled(both)[0] == NOWHERE).all())


def _fits(key: Key) -> bool:
    return isinstance(key, int) and -(2**63) <= key < 2**63


def _numbers(keys: Sequence[Key]) -> NDArray[np.int64] | None:
    """The keys as int64; None where one is text or beyond."""
    if not isinstance(keys[0], int):
        return None
    try:
        return np.array(keys, np.int64)
    except OverflowError:
        return None


def _integers(keys: pa.Array | pa.ChunkedArray) -> NDArray[np.int64] | None:
    """A key column as int64 in memory of its own; None where it is text or may be beyond."""
    if not pa.types.is_integer(keys.type) or pa.types.is_uint64(keys.type):
        return None
    chunks = keys.chunks if isinstance(keys, pa.ChunkedArray) else [keys]
    found = [np.from_dlpack(chunk).astype(np.int64) for chunk in chunks]
    return np.concatenate(found) if found else _EMPTY
