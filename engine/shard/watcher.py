"""Who wants to know what checkpoints do to segments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nearql.engine.segment.view import SegmentView


class Watcher(Protocol):
    """Implemented by `index.catalog.TableIndexes`."""

    def moved(
        self, old: Sequence[SegmentView], new: SegmentView, kept: NDArray[np.bool_] | None
    ) -> None:
        """These rows of adjacent segments are in `new` from now on; see `checkpoint.Replaced`.

        Called under the shard's lock, before any read view shows `new`.
        """

    def refresh(self) -> None:
        """A checkpoint was made. Called without locks."""
