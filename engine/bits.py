"""One bit string as storage holds it; whole columns are packed by the query layer."""

from __future__ import annotations


def packed(text: str, bits: int) -> bytes:
    """Text of 0 and 1 as ceil(bits / 8) bytes, the first bit in the highest place.

    Raises:
        ValueError: another length, or other characters.
    """
    if len(text) != bits or set(text) - {"0", "1"}:
        raise ValueError(f"{text!r} is no text of {bits} zeros and ones.")
    size = (bits + 7) // 8
    return int(text.ljust(size * 8, "0"), 2).to_bytes(size, "big")
