"""A forger who is a superuser, with every trigger off: what verifying finds of what he did, and what it cannot.

Each attack has its place in docs/integrity.md.
"""

from pathlib import Path
from typing import Any

import pytest

from daybook.digests import Keeper
from daybook.seals import Sealer
from daybook.signing import PublicKey, SealError, make_key, read_signing_key
from daybook.verification import verify
from tests.conftest import Database
from tests.sealing import MISFIT, begin, forge, found, ids, last_block, sealed, told, write
from tests.trail import Connection

TODAYS = """
    select min(sequence), to_char(audit.utc_day(now()), 'YYYYMMDD') from audit.seal
    where lower_bound >= audit.day_start(audit.utc_day(now()))"""


@pytest.fixture
def log(database: Database, db: Connection) -> Database:
    """A log with three sealed entries of a tracked table, in the last block."""
    begin(database, db)
    return database


def test_a_log_that_nobody_altered_fits(log: Database, db: Connection) -> None:
    result = verify(log.url("dba"))
    assert (result.fits, result.misfits, result.entries, result.changes) == (True, [], 4, 3)


def test_a_change_of_any_one_column_is_found(log: Database, db: Connection) -> None:
    values = {
        "workspace_id": "'forged'", "event": "'forged'", "operation": "'UPDATE'", "table_schema": "'forged'",
        "table_name": "null", "resource_type": "'forged'", "resource_id": "'forged'", "resource_name": "''",
        "row_key": "''", "actor_type": "'user'", "actor_id": "'forged'", "actor_name": "'forged'", "row_count": "2",
        "before": "'{}'", "after": "'{\"id\": 1.0}'", "request_id": "'forged'", "context": "'{}'",
        "database_user": "'forged'", "transaction_id": "'1'",
    }  # fmt: skip
    first, *_ = ids(db)
    changed = [("changed", last_block(db), first)]
    assert [c for c, value in values.items() if found_after(log, db, f"{c} = {value}") != changed] == []


def found_after(log: Database, db: Connection, change: str) -> list[MISFIT]:
    """What verifying finds after this change of the first entry, which is then undone."""
    first, *_ = ids(db)
    forge(
        db,
        f"create temporary table kept as select * from audit.entry where id = '{first}'",
        f"update audit.entry set {change} where id = '{first}'",
    )
    misfits = found(log)
    forge(
        db,
        f"delete from audit.entry where id = '{first}'",
        "insert into audit.entry select * from kept",
        "drop table kept",
    )
    return misfits


@pytest.mark.parametrize(
    "statement",
    [
        "update audit.change set after = '{\"id\": 5}' where resource_id = '3'",
        "update audit.change set resource_name = null where resource_id = '3'",
        "delete from audit.change where resource_id = '3'",
        "insert into audit.change select * from audit.change where resource_id = '3'",
        "update audit.change c set after = o.after from audit.change o where c.row_key is null and o.resource_id = '4'",
    ],
)
def test_a_changed_removed_or_added_row_of_a_bulk_entry_is_found(log: Database, db: Connection, statement: str) -> None:
    bulk = ids(db)[1]
    forge(db, statement)
    assert found(log) == [("changed", last_block(db), bulk)]


def test_a_deleted_entry_is_found(log: Database, db: Connection) -> None:
    first, *_ = ids(db)
    block = last_block(db)
    forge(db, f"delete from audit.entry where id = '{first}'")
    assert found(log) == [("missing", block, first)]


def test_a_bulk_entry_deleted_without_its_rows_is_found(log: Database, db: Connection) -> None:
    bulk = ids(db)[1]
    forge(db, f"delete from audit.entry where id = '{bulk}'")
    assert found(log) == [("changed", last_block(db), bulk)]


def test_an_entry_that_was_put_between_others_is_found(log: Database, db: Connection) -> None:
    first, *_ = ids(db)
    forge(
        db,
        "create temporary table forged as select * from audit.entry where id = '" + first + "'",
        "update forged set id = audit.new_entry_id(created_at + interval '1 microsecond'),"
        " created_at = created_at + interval '1 microsecond'",
        "insert into audit.entry select * from forged",
    )
    row = db.execute("select id::text from forged").fetchone()
    assert row
    assert found(log) == [("added", last_block(db), row[0])]


def test_an_entry_that_stands_twice_is_found(log: Database, db: Connection) -> None:
    first, *_ = ids(db)
    forge(db, f"insert into audit.entry select * from audit.entry where id = '{first}'")
    assert found(log) == [("changed", last_block(db), first)]


def test_two_entries_whose_contents_were_swapped_are_found(log: Database, db: Connection) -> None:
    first, _, third = ids(db)
    forge(
        db,
        f"""update audit.entry e set id = o.id, created_at = o.created_at from audit.entry o
            where e.id in ('{first}', '{third}') and o.id in ('{first}', '{third}') and e.id <> o.id""",
    )
    assert sorted(found(log)) == sorted([("changed", last_block(db), first), ("changed", last_block(db), third)])


def test_an_entry_that_was_backdated_within_its_block_is_found(log: Database, db: Connection) -> None:
    first, _, third = ids(db)
    forge(
        db,
        f"""update audit.entry e set created_at = o.created_at - interval '1 microsecond' from audit.entry o
            where e.id = '{third}' and o.id = '{first}'""",
    )
    assert ("reordered", last_block(db), third) in found(log)


def test_an_entry_that_was_backdated_to_another_block_is_found(log: Database, db: Connection) -> None:
    *_, third = ids(db)
    forge(
        db,
        f"""update audit.entry set created_at = (select lower_bound from audit.seal where sequence = 1)
            where id = '{third}'""",
    )
    assert found(log) == [("reordered", 1, third)]


def test_a_partition_that_was_dropped_is_found(log: Database, db: Connection) -> None:
    (first,) = one(
        db, "select min(sequence) from audit.seal where lower_bound >= audit.day_start(audit.utc_day(now()))"
    )
    (day,) = one(db, "select to_char(audit.utc_day(now()), 'YYYYMMDD')")
    forge(db, f"drop table audit.entry_{day}", f"drop table audit.change_{day}")
    assert found(log) == [("missing", first, None)]


def test_a_dropped_partition_whose_seals_say_that_retention_dropped_it_is_found(log: Database, db: Connection) -> None:
    (first,) = one(
        db, "select min(sequence) from audit.seal where lower_bound >= audit.day_start(audit.utc_day(now()))"
    )
    (day,) = one(db, "select to_char(audit.utc_day(now()), 'YYYYMMDD')")
    forge(
        db,
        f"drop table audit.entry_{day}",
        f"drop table audit.change_{day}",
        f"update audit.seal set dropped_at = lower_bound, entry_keys = null where sequence >= {first}",
    )
    assert ("missing", first, None) in found(log)


def test_a_partition_that_was_detached_is_found(log: Database, db: Connection) -> None:
    (first,) = one(
        db, "select min(sequence) from audit.seal where lower_bound >= audit.day_start(audit.utc_day(now()))"
    )
    (day,) = one(db, "select to_char(audit.utc_day(now()), 'YYYYMMDD')")
    forge(db, f"alter table audit.entry detach partition audit.entry_{day}")
    assert found(log) == [("missing", first, None)]


def test_names_of_entries_that_were_altered_too_hide_no_block(log: Database, db: Connection) -> None:
    first, *_ = ids(db)
    forge(
        db,
        f"update audit.entry set actor_id = 'forged' where id = '{first}'",
        f"update audit.seal set entry_keys = '' where sequence = {last_block(db)}",
    )
    assert {(kind, block) for kind, block, _ in found(log)} == {("added", last_block(db))}


# Seals, rewritten as well


def rewrite_seals(database: Database, db: Connection, sequence: int, sealer: Sealer | None = None) -> None:
    """Throw the seals from a block on away and seal anew, with the product's own code: what a forger would do."""
    forge(db, f"delete from audit.seal where sequence >= {sequence}")
    sealed(database, sealer)


def test_a_seal_that_was_altered_is_found(log: Database, db: Connection) -> None:
    block = last_block(db)
    forge(db, f"update audit.seal set sealed_at = sealed_at - interval '1 day' where sequence = {block}")
    assert found(log) == [("replaced", block, None)]


def test_a_seal_that_was_deleted_is_found(log: Database, db: Connection) -> None:
    write(db, "delete from document where id = 1")
    sealed(log)
    block = last_block(db)
    forge(db, f"delete from audit.seal where sequence = {block - 1}")
    assert ("missing", block - 1, None) in found(log)


def test_seals_that_were_swapped_are_found(log: Database, db: Connection) -> None:
    forge(
        db,
        "update audit.seal set sequence = -sequence where sequence <= 2",
        "update audit.seal set sequence = 3 + sequence where sequence < 0",
    )
    assert {("replaced", 1, None), ("replaced", 2, None)} <= set(found(log))


def test_seals_rewritten_as_well_are_not_found_from_the_database_alone(log: Database, db: Connection) -> None:
    first, *_ = ids(db)
    forge(db, f"update audit.entry set actor_id = 'forged' where id = '{first}'")
    rewrite_seals(log, db, last_block(db))
    assert found(log) == []


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A folder outside the database."""
    folder = tmp_path / "kept"
    folder.mkdir()
    return folder


def test_seals_rewritten_as_well_are_found_by_digests_kept_elsewhere(
    database: Database, db: Connection, kept: Path
) -> None:
    begin(database, db, Sealer(keeper=Keeper(str(kept))))
    first, *_ = ids(db)
    forge(db, f"update audit.entry set actor_id = 'forged' where id = '{first}'")
    block = last_block(db)
    rewrite_seals(database, db, block)
    assert told(verify(database.url("dba"), digests=kept)) == [("replaced", block, None)]


def test_a_rewritten_chain_is_not_gone_on_with_where_digests_are_kept(
    database: Database, db: Connection, kept: Path
) -> None:
    sealer = Sealer(keeper=Keeper(str(kept)))
    begin(database, db, sealer)
    rewrite_seals(database, db, last_block(db))
    write(db, "delete from document where id = 1")
    with pytest.raises(SealError, match="the chain was replaced"):
        sealed(database, sealer)


@pytest.fixture
def sealer(tmp_path: Path) -> Sealer:
    """A sealer with a key that the database does not know."""
    make_key(tmp_path / "seal.key")
    return Sealer(read_signing_key(tmp_path / "seal.key"))


def public(sealer: Sealer) -> list[PublicKey]:
    assert sealer.key
    return [sealer.key.public]


def test_seals_rewritten_without_the_key_are_found_by_the_public_key(
    database: Database, db: Connection, sealer: Sealer
) -> None:
    begin(database, db, sealer)
    first, *_ = ids(db)
    forge(db, f"update audit.entry set actor_id = 'forged' where id = '{first}'")
    block = last_block(db)
    rewrite_seals(database, db, block)
    # What is signed later does not cover it.
    write(db, "delete from document where id = 1")
    sealed(database, sealer)
    result = verify(database.url("dba"), public_keys=public(sealer))
    assert told(result) == [("unsigned", block, None)]


def test_seals_rewritten_with_another_key_are_found(
    database: Database, db: Connection, sealer: Sealer, tmp_path: Path
) -> None:
    begin(database, db, sealer)
    make_key(tmp_path / "forged.key")
    block = last_block(db)
    rewrite_seals(database, db, block, Sealer(read_signing_key(tmp_path / "forged.key")))
    result = verify(database.url("dba"), public_keys=public(sealer))
    assert told(result) == [("replaced", block, None)]


def test_a_signature_that_was_altered_is_found(database: Database, db: Connection, sealer: Sealer) -> None:
    begin(database, db, sealer)
    block = last_block(db)
    forge(
        db,
        f"""update audit.seal s set signature = o.signature from audit.seal o
            where s.sequence = {block} and o.sequence = {block - 1}""",
    )
    result = verify(database.url("dba"), public_keys=public(sealer))
    assert told(result) == [("replaced", block, None)]


def test_an_old_digest_with_its_signature_in_the_place_of_a_new_one_is_found(
    database: Database, db: Connection, sealer: Sealer
) -> None:
    begin(database, db, sealer)
    block = last_block(db)
    forge(
        db,
        f"""update audit.seal s set digest = o.digest, signature = o.signature from audit.seal o
            where s.sequence = {block} and o.sequence = {block - 1}""",
    )
    result = verify(database.url("dba"), public_keys=public(sealer))
    assert told(result) == [("replaced", block, None)]


def test_an_old_seal_played_again_as_the_newest_is_found(database: Database, db: Connection, sealer: Sealer) -> None:
    begin(database, db, sealer)
    block = last_block(db)
    forge(
        db,
        f"delete from audit.seal where sequence = {block}",
        f"""insert into audit.seal
            select {block}, upper_bound, upper_bound + interval '1 second', sealed_at, entries, changes, root,
                previous_digest, digest, key_fingerprint, signature, entry_keys, null
            from audit.seal where sequence = {block - 1}""",
    )
    result = verify(database.url("dba"), public_keys=public(sealer))
    assert ("replaced", block, None) in told(result)


def set_back(db: Connection, block: int) -> None:
    """Make the log what a backup before this block holds."""
    forge(
        db,
        f"delete from audit.change where created_at >= (select lower_bound from audit.seal where sequence = {block})",
        f"delete from audit.entry where created_at >= (select lower_bound from audit.seal where sequence = {block})",
        f"delete from audit.seal where sequence >= {block}",
    )


def test_a_log_that_was_set_back_is_not_found_from_the_database_alone_even_with_signatures(
    database: Database, db: Connection, sealer: Sealer
) -> None:
    begin(database, db, sealer)
    set_back(db, last_block(db))
    assert told(verify(database.url("dba"), public_keys=public(sealer))) == []


def test_a_log_that_was_set_back_is_found_by_digests_kept_elsewhere(
    database: Database, db: Connection, kept: Path
) -> None:
    begin(database, db, Sealer(keeper=Keeper(str(kept))))
    block = last_block(db)
    set_back(db, block)
    assert told(verify(database.url("dba"), digests=kept)) == [("truncated", block, None)]


def test_a_log_that_was_set_back_and_gone_on_with_is_found_by_digests_kept_elsewhere(
    database: Database, db: Connection, kept: Path
) -> None:
    begin(database, db, Sealer(keeper=Keeper(str(kept))))
    block = last_block(db)
    set_back(db, block)
    write(db, "delete from document where id = 1")
    sealed(database)
    assert told(verify(database.url("dba"), digests=kept)) == [("replaced", block, None)]


def test_functions_of_the_log_that_lie_change_nothing(log: Database, db: Connection) -> None:
    first, *_ = ids(db)
    forge(db, f"update audit.entry set actor_id = 'forged' where id = '{first}'")
    db.execute(
        "create or replace function audit.integrity() returns jsonb language sql stable security definer"
        " set search_path = pg_catalog, pg_temp as $$ select jsonb '{\"misfits\": 0}' $$"
    )
    assert found(log) == [("changed", last_block(db), first)]


def test_an_entry_altered_before_it_is_sealed_is_not_found(log: Database, db: Connection) -> None:
    write(db, "delete from document where id = 1")
    forge(db, f"update audit.entry set actor_id = 'forged' where id = '{ids(db)[-1]}'")
    sealed(log)
    assert found(log) == []


def test_entries_before_the_first_block_are_found(log: Database, db: Connection) -> None:
    db.execute("select audit.create_day(audit.utc_day(now()) - 10)")
    forge(
        db,
        f"""update audit.entry set created_at = created_at - interval '10 days' where id = '{ids(db)[0]}'""",
    )
    assert ("added", None, None) in found(log)


def one(db: Connection, query: str) -> tuple[Any, ...]:
    row = db.execute(query.encode()).fetchone()
    assert row
    return row
