"""How long records wait: when the end of a primary's log was where.

Copies lag by the age of the first record that they lack; that they had everything a while ago says
nothing where nothing was written since.

    marks    (10 ms, LSN 4)  (31 ms, LSN 9)  (55 ms, LSN 12)
    a copy that has 4 lacks what was logged at 31 ms or later; one that has 2, at 10 ms

Marks that are close are one, and of too many each second one goes: ages are then too high by a
little, never too low.
"""

from __future__ import annotations

from collections import deque

APART_MS = 5  # marks that are closer are one
MOST = 4_096  # marks


class Ages:
    """Not thread-safe: of the loop."""

    def __init__(self) -> None:
        self._marks: deque[tuple[int, int]] = deque()  # (ms, LSN), both rising
        self._forgotten_lsn = 0

    def __len__(self) -> int:
        return len(self._marks)

    def note(self, end_lsn: int, now_ms: int) -> None:
        """The log ends there since now."""
        marks = self._marks
        if marks and end_lsn <= marks[-1][1]:
            return
        if marks and now_ms - marks[-1][0] < APART_MS:
            marks[-1] = marks[-1][0], end_lsn
            return
        marks.append((now_ms, end_lsn))
        if len(marks) > MOST:
            self._thin_out()

    def _thin_out(self) -> None:
        """Join neighbours: the time of the first one, the end of the second."""
        marks = list(self._marks)
        ends = [lsn for _, lsn in marks[1::2]] + [lsn for _, lsn in marks[-1:] if len(marks) % 2]
        times = [ms for ms, _ in marks[0::2]]
        self._marks = deque(zip(times, ends, strict=True))

    def forget(self, lsn: int) -> None:
        """Nobody asks for records up to there any more."""
        while self._marks and self._marks[0][1] <= lsn:
            self._forgotten_lsn = self._marks.popleft()[1]

    def clear(self) -> None:
        """The log was cut, or is another one."""
        self._marks.clear()
        self._forgotten_lsn = 0

    def behind_ms(self, lsn: int, now_ms: int) -> int | None:
        """How old the first record after that one is; None where that is not known."""
        if lsn < self._forgotten_lsn:
            return None
        found = next((ms for ms, end in self._marks if end > lsn), None)
        return None if found is None else max(0, now_ms - found)
