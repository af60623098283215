"""Vector indexes: one file per kind, and what builds, keeps and finds them.

base.py       what an index is, and what a kind is
registry.py   kinds by name, where FAISS is there
"""
