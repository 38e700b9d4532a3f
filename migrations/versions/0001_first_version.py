"""The first version: everything in sql/ as it was when this migration was released."""

from pathlib import Path

from alembic import context, op

revision = "0001"
down_revision = None

FOLDER = Path(__file__).parent


def upgrade() -> None:
    _run("0001_first_version.up.sql")


def downgrade() -> None:
    if not context.config.attributes.get("destroy_log"):
        raise RuntimeError("a downgrade below 0001 destroys the whole log; it must be told to")
    _run("0001_first_version.down.sql")


def _run(name: str) -> None:
    # Sent as it is: neither ":x" nor "%" in it is a parameter.
    op.get_bind().exec_driver_sql(
        (FOLDER / name).read_text(encoding="utf-8"), execution_options={"no_parameters": True}
    )
