"""Set up postgresql-audit in a database: `python -m bench.write.peers.postgresql_audit URL`.

Follows https://postgresql-audit.readthedocs.io/en/latest/sqlalchemy.html and its README; statement-level triggers, its
default, and `exclude` for updated_at. It needs SQLAlchemy 2.0: with 2.1 its create_all fails.
"""

import sys

import psycopg
import sqlalchemy
from postgresql_audit import versioning_manager
from sqlalchemy.orm import declarative_base

from bench.write.tables import DOCUMENT, WIDE

Base = declarative_base()
versioning_manager.init(Base)
sqlalchemy.orm.configure_mappers()
engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(sys.argv[1]))
with engine.begin() as connection:
    Base.metadata.create_all(connection)
    for name, exclude in ((DOCUMENT, ["updated_at"]), (WIDE, None)):
        table = sqlalchemy.Table(name, sqlalchemy.MetaData(), autoload_with=connection)
        connection.execute(versioning_manager.build_audit_table_query(table, exclude))
