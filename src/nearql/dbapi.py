"""PEP 249 (DB-API 2.0) for NearQL; its home is `nearql.client.dbapi`."""

from nearql.client.dbapi import *  # noqa: F403 - the same names, under the name that users import
from nearql.client.dbapi import __all__, __doc__  # noqa: F401
