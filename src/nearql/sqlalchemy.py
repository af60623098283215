"""SQLAlchemy types and dialect for NearQL; its home is `nearql.client.alchemy`."""

try:
    from nearql.client.alchemy import Bit, HalfVector, NearQLDialect, Vector
except ModuleNotFoundError as error:
    if not (error.name or "").startswith("sqlalchemy"):
        raise
    raise ModuleNotFoundError(
        "nearql.sqlalchemy needs SQLAlchemy: pip install 'nearql[sqlalchemy]'.", name=error.name
    ) from error

__all__ = ["Bit", "HalfVector", "NearQLDialect", "Vector"]
