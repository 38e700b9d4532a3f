"""That the comparison of log and ledgers, which `make faults` believes, can fail at all.

It must not hold a fault; test_faults.py does.
"""

import pytest

from tests.faults.comparison import compare
from tests.faults.ledger import State
from tests.faults.writers import Writer, create_tables
from tests.trail import Connection


@pytest.fixture
def writer(db: Connection) -> Writer:
    """A writer whose ledger holds forty transactions, none of them killed."""
    create_tables(db, 2)
    writer = Writer(0, seed=7)
    writer.thinking = 0
    for _ in range(40):
        writer.transact(db)
    return writer


def problems_after(db: Connection, writer: Writer, damage: str) -> str:
    """What the comparison says once a superuser has done this past the log's triggers; it is undone."""
    with db.transaction(force_rollback=True):
        db.execute("set local session_replication_role = replica")
        db.execute("alter table document enable trigger audit_update")
        db.execute(damage.encode())
        db.execute("alter table document enable always trigger audit_update")
        db.execute("set local session_replication_role = origin")
        return "\n".join(compare(db, [writer]).problems)


def test_the_comparison_sees_what_is_lost_or_invented(db: Connection, writer: Writer) -> None:
    committed = sum(len(done.entries) for done in writer.ledger if done.state is State.COMMITTED)
    assert compare(db, [writer]).problems == []
    assert compare(db, [writer]).entries == committed > 100

    last = "(select max(id::text)::uuid from audit.entry)"
    assert ": lost: " in problems_after(db, writer, f"delete from audit.entry where id = {last}")
    some_row = "(entry_id, row_key) in (select entry_id, row_key from audit.change where row_key <> '' limit 1)"
    assert " rows and has " in problems_after(db, writer, f"delete from audit.change where {some_row}")
    some_entry = "audit.entry e where operation = 'UPDATE' and row_count = 1 and before ? 'title' limit 1"
    again = problems_after(db, writer, f"insert into audit.entry select * from {some_entry}")
    assert ": invented: " in again
    assert "does not fit the entries before it" in again
    changed = problems_after(db, writer, "update document set stars = -1 where id = (select min(id) from document)")
    assert "document: the log replayed has a row too many" in changed
    assert "document: the log replayed lacks a row" in changed
    assert "document: the ledgers has a row too many" in changed
    assert "trigger_disabled" in problems_after(db, writer, "alter table document disable trigger audit_insert")
    unguarded = problems_after(db, writer, "alter event trigger audit_guard_drop disable")
    assert "log_not_guarded" in unguarded
    assert "not refused: drop table audit.change" in unguarded


def test_the_comparison_sees_entries_of_what_did_not_commit(db: Connection, writer: Writer) -> None:
    named = "(jsonb_populate_record(e, jsonb_build_object('request_id', '{}'))).*"
    source = "from audit.entry e where operation = 'INSERT' and row_count = 1 limit 1"
    nobody = problems_after(db, writer, f"insert into audit.entry select {named.format('another')} {source}")
    assert "entries that nobody wrote: request another" in nobody
    request = next(done.request_id for done in writer.ledger if done.state is State.ROLLED_BACK and done.entries)
    undone = problems_after(db, writer, f"insert into audit.entry select {named.format(request)} {source}")
    assert f"transaction {request} (rolled back): invented: " in undone


def test_a_commit_without_an_answer_is_wholly_there_or_not_at_all(db: Connection, writer: Writer) -> None:
    connection_broke = Writer(1, seed=1)
    connection_broke.thinking = 0
    connection_broke.transact(db)
    (done,) = connection_broke.ledger
    assert done.state is State.COMMITTED
    assert len(done.entries) > 1
    # As its writer knows it whose connection broke during the commit: as compare() settles it, so it stays.
    done.state, connection_broke.rows = State.COMMITTING, {}
    found = compare(db, [writer, connection_broke])
    assert (found.problems, found.kept, connection_broke.rows) == ([], 1, done.rows)

    done.state, connection_broke.rows = State.COMMITTING, {}
    db.execute("set session_replication_role = replica")
    db.execute(
        "delete from audit.entry where id = (select max(id::text)::uuid from audit.entry where request_id = '1-0')"
    )
    db.execute("set session_replication_role = origin")
    assert "transaction 1-0 (committed): lost: " in "\n".join(compare(db, [writer, connection_broke]).problems)

    done.state, connection_broke.rows = State.COMMITTING, {}
    db.execute("set session_replication_role = replica")
    db.execute("delete from audit.entry where request_id = '1-0'")
    db.execute("set session_replication_role = origin")
    found = compare(db, [writer, connection_broke])
    assert found.kept == 0
    assert "the log replayed lacks a row" in "\n".join(found.problems)
    assert "the ledgers lacks a row" in "\n".join(found.problems)
