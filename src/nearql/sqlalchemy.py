"""SQLAlchemy types and dialect for NearQL; its home is `nearql.client.alchemy`."""

from nearql.client.alchemy import HalfVector, NearQLDialect, Vector

__all__ = ["HalfVector", "NearQLDialect", "Vector"]
