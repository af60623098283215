"""Vector indexes: one file per kind, and what builds, keeps, finds and asks them.

base.py       what an index is, and what a kind is
registry.py   kinds by name, where FAISS is there
choice.py     which kind a segment gets
rows.py       the rows of a segment as an index wants them
native.py     FAISS indexes as NearQL holds them; hnsw.py ivf.py ivfflat.py ivfpq.py ivfrabitq.py
files.py      the files of one shard's indexes
builder.py    the thread that builds, fairly between tables
catalog.py    a table's indexes: declared, built, moved along with their rows
carried.py    old indexes over rows that moved
plan.py       what an index may be asked; profiles.py what was measured of it
search.py     searches in which indexes name candidates; single.py its short path for one query
"""
