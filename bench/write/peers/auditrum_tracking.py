"""Set up auditrum in a database: `python -m bench.write.peers.auditrum_tracking URL full|diff`.

Follows https://auditrum.readthedocs.io/ (SQLAlchemy) and its README: its schema with three months of partitions, its
triggers, `exclude` for updated_at. "full" is its default and stores the row before, after and the difference; "diff"
stores the difference alone.
"""

import sys

import psycopg
import sqlalchemy
from auditrum.integrations.sqlalchemy.core import bootstrap_schema, sync, track_table

from bench.write.tables import DOCUMENT, WIDE

engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(sys.argv[1]))
bootstrap_schema(engine)
for name, exclude in ((DOCUMENT, ["updated_at"]), (WIDE, None)):
    table = sqlalchemy.Table(name, sqlalchemy.MetaData(), autoload_with=engine)
    track_table(table, exclude=exclude, storage=sys.argv[2])
sync(engine)
