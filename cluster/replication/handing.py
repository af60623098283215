"""Hands many primaries over at once, in the time that one is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from nearql.cluster.replication.clock import Clock

AT_ONCE = 8
TIME_IS_UP = "the time was up before its turn came"
HandOver = Callable[[str, str, float], str]  # shard, node, seconds -> "" or why it failed


def all_within(
    wanted: Mapping[str, str], hand_over: HandOver, timeout_s: float, clock: Clock
) -> dict[str, str]:
    """What became of each shard: "", or why it failed. wanted: by shard uuid, which node it is for.

    Whose turn comes after `timeout_s` is not asked any more: many that fail take as long as one.
    """
    until_ms = clock() + int(timeout_s * 1000)

    def one(uuid: str) -> str:
        left_s = (until_ms - clock()) / 1000
        return hand_over(uuid, wanted[uuid], left_s) if left_s > 0 else TIME_IS_UP

    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="hand-over") as pool:
        return dict(zip(wanted, pool.map(one, wanted), strict=True))
