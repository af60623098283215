"""Bodies of bulk requests as Arrow batches, checked wholly before the first row is stored.

One module per format, each with `decode(source) -> Iterator[Batch]`; `formats` finds it by media
type.
"""
