"""Alembic's entry: runs the migrations over the connection that daybook.schema hands in.

It must not open connections or read settings of its own.
"""

from alembic import context
from sqlalchemy import text

connection = context.config.attributes["connection"]

# Alembic keeps its version in our schema, which the first migration would otherwise be the one to make.
connection.execute(text("create schema if not exists audit"))
context.configure(
    connection=connection,
    version_table="schema_version",
    version_table_schema="audit",
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
