"""Set up postgresql-audit in a database: `python postgresql_audit.py URL`.

Follows https://postgresql-audit.readthedocs.io/en/latest/sqlalchemy.html and its README; statement-level triggers, its
default, and `exclude` for updated_at. It needs SQLAlchemy 2.0: with 2.1 its create_all fails.
"""

import sys
from pathlib import Path

# This file is named as the package is: its folder must not come first.
sys.path[0] = str(Path(__file__).resolve().parents[3])

import psycopg
import sqlalchemy
from bench.write.tables import DOCUMENT, WIDE
from postgresql_audit import versioning_manager
from sqlalchemy.orm import declarative_base

Base = declarative_base()
versioning_manager.init(Base)
sqlalchemy.orm.configure_mappers()
engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(sys.argv[1]))
with engine.begin() as connection:
    Base.metadata.create_all(connection)
    for name, exclude in ((DOCUMENT, ["updated_at"]), (WIDE, None)):
        table = sqlalchemy.Table(name, sqlalchemy.MetaData(), autoload_with=connection)
        connection.execute(versioning_manager.build_audit_table_query(table, exclude))
