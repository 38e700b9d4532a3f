"""What tests of seals share: a log that was sealed over some days, and a forger who is a superuser.

It must not compute a digest.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from daybook.seals import Sealed, Sealer, seal
from daybook.verification import Result, verify
from tests.conftest import Database
from tests.trail import Connection
from tests.upkeep import settle

TRACKED = """
create table document (id integer primary key, workspace_id text, title text);
select audit.enable_tracking('document', resource_name_column => 'title');
"""
TODAY = "(clock_timestamp() at time zone 'UTC')::date"
MISFIT = tuple[str, int | None, str | None]


def write(db: Connection, *statements: str) -> None:
    """Write to the tracked table, and let the watermark pass that."""
    for statement in statements:
        db.execute(statement.encode())
    settle(db)


def sealed(database: Database, sealer: Sealer | None = None) -> Sealed:
    """Seal as upkeep's login."""
    return seal(database.url("maintainer"), sealer or Sealer())


def begin(database: Database, db: Connection, sealer: Sealer | None = None) -> None:
    """Three entries, the second a bulk entry of three rows, in one sealed block after those of days without entries."""
    db.execute(TRACKED.encode())
    sealed_before(database, db, sealer)
    write(
        db,
        "insert into document values (1, 'acme', 'Plan')",
        "insert into document values (2, 'acme', 'Costs'), (3, 'acme', 'Revenue'), (4, 'acme', 'Risks')",
        "update document set title = 'Plan B' where id = 1",
    )
    sealed(database, sealer)


def sealed_before(database: Database, db: Connection, sealer: Sealer | None = None) -> None:
    """Seal what stands, the entry about the tracking included."""
    settle(db)
    sealed(database, sealer)


def last_block(db: Connection) -> int:
    """The number of the last block."""
    row = db.execute("select max(sequence) from audit.seal").fetchone()
    assert row
    return int(row[0])


@contextmanager
def forging(db: Connection) -> Iterator[None]:
    """As a superuser whose statements fire no trigger."""
    db.execute("set session_replication_role = replica")
    yield
    db.execute("reset session_replication_role")


def forge(db: Connection, *statements: str) -> None:
    """Do what no trigger hinders."""
    with forging(db):
        for statement in statements:
            db.execute(statement.encode())


def found(database: Database) -> list[MISFIT]:
    """What verifying finds, without its sentences."""
    return told(verify(database.url("dba")))


def told(result: Result) -> list[MISFIT]:
    """The misfits of a result: kind, block, entry."""
    return [(misfit.kind, misfit.block, misfit.entry_id) for misfit in result.misfits]


def ids(db: Connection) -> list[str]:
    """The ids of the entries that the tracked table left, oldest first."""
    rows = db.execute("select id::text from audit.entry where operation <> 'EVENT' order by created_at").fetchall()
    return [row[0] for row in rows]
