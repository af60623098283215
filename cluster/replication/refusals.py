"""Why a write is refused before it is logged, by the core's word for it."""

from __future__ import annotations

REFUSALS = {
    "not_primary": "This copy is not the shard's primary; nothing was written.",
    "lease_lost": "The primary has not heard from all copies in sync lately, so that another may "
    "have taken its place; nothing was written.",
    "hand_off": "The primary is giving its part to another node; nothing was written.",
    "not_enough_replicas": "Too few copies of the shard are in sync; nothing was written.",
    "copy_being_made": "A copy that would be needed is still being made; nothing was written.",
    "too_much_uncommitted": "Too much was written that other copies do not have yet; nothing was "
    "written.",
    "loop_lag": "This node is too slow just now to know whether it is still the primary; nothing "
    "was written.",
}
