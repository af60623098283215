"""SQLAlchemy: the dialect `nearql://`, and vector types; what `import nearql.sqlalchemy` gives.

    engine = create_engine("nearql://localhost:8470")
    class Doc(Base):
        vec = mapped_column(Vector(384))
    session.scalars(select(Doc).order_by(Doc.vec.l2_distance(query)).limit(5))

Needs `pip install 'nearql[sqlalchemy]'`.
"""

from nearql.client.alchemy.dialect import NearQLDialect
from nearql.client.alchemy.types import Bit, HalfVector, Vector

__all__ = ["Bit", "HalfVector", "NearQLDialect", "Vector"]
