"""Seals: what a block is, how the chain goes on, who waits for it, and what the commands print.

What verifying finds of an altered log stands in test_forger.py.
"""

import json
import os
import re
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from daybook import leaves, seals, verification
from daybook.commands import main
from daybook.digests import Keeper, read_digests
from daybook.leaves import CHANGE_COLUMNS, ENTRY_COLUMNS, path_of, root_of
from daybook.seals import Sealer
from daybook.signing import SealError, make_key, read_signing_key
from daybook.upkeep import maintain, status
from daybook.verification import verify
from tests.conftest import REPOSITORY, Database
from tests.reading import AS_ADMIN, AS_MEMBER, AS_STRANGER, Client, add_keys, opened
from tests.sealing import TODAY, TRACKED, begin, forge, found, ids, last_block, sealed, told, write
from tests.trail import Connection, count, own_events
from tests.upkeep import make_past, put_entries, settle

DOCUMENT = (REPOSITORY / "docs" / "integrity.md").read_text(encoding="utf-8")


@pytest.fixture
def at(database: Database, monkeypatch: pytest.MonkeyPatch) -> Database:
    """The database that the command is told of."""
    monkeypatch.setenv("DAYBOOK_DATABASE_URL", database.url("maintainer"))
    return database


@pytest.fixture
def sealer(tmp_path: Path) -> Sealer:
    """A sealer that signs and keeps digests in a folder."""
    make_key(tmp_path / "seal.key")
    (tmp_path / "kept").mkdir()
    return Sealer(read_signing_key(tmp_path / "seal.key"), Keeper(str(tmp_path / "kept")))


@pytest.mark.parametrize(("file", "name"), sorted(set(re.findall(r"`(test_\w+\.py)::(\w+)`", DOCUMENT))))
def test_a_test_that_the_document_names_exists(file: str, name: str) -> None:
    text = (REPOSITORY / "tests" / file).read_text(encoding="utf-8")
    assert re.search(rf"^def {name}\(", text, re.MULTILINE)


# The form


def test_all_columns_of_entries_and_changes_are_digested(db: Connection) -> None:
    query = (
        "select array_agg(attname::text order by attnum) from pg_attribute where attrelid = %s::regclass and attnum > 0"
    )
    assert db.execute(query, ["audit.entry"]).fetchone() == (list(ENTRY_COLUMNS),)
    assert db.execute(query, ["audit.change"]).fetchone() == (list(CHANGE_COLUMNS),)


def test_a_root_is_that_of_rfc_6962() -> None:
    # The test vectors of certificate transparency's reference implementation: leaves are digested with 0x00 first.
    data = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    digests = [leaves._sha256(leaves.LEAF + bytes.fromhex(each)).digest() for each in data]
    assert [root_of(digests[:number]).hex() for number in (0, 1, 2, 3, 5, 8)] == [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ]


ODD_ENTRIES = """
insert into audit.entry values
    ('019cec37-b600-7001-8000-000000000001', '2026-03-14 12:00:00.000001Z', 'acme', 'resource_updated', 'UPDATE',
     'public', 'document', 'document', null, 'Plän', null, 'user', '42', 'Ada', 2, null, null, 'r-1',
     '{"b": 1.50, "aa": [null], "é": 1e-7}', 'app', '4294967296'),
    ('019cec37-b600-7001-8000-000000000002', '2026-03-14 12:00:00.000001Z', null, 'x_seen', 'EVENT', null, null, 'x',
     '', '', '', 'system', 'system', 'system', 0, '{}', '{}', null, null, 'app', '1')"""
ODD_CHANGES = """
insert into audit.change values
    ('019cec37-b600-7001-8000-000000000001', '2026-03-14 12:00:00.000001Z', 'acme', '1', 'A', null,
     '{"n": 1}', '{"n": 1.0}'),
    ('019cec37-b600-7001-8000-000000000001', '2026-03-14 12:00:00.000001Z', 'acme', '2', 'B', '3', null,
     '{"n": 1e40}')"""
# Computed by hand from docs/integrity.md. What is sealed must be found again by every later version.
DIGESTS = [
    "d34cd72a50fffd9544f51b675e19f986c2663294f867fc25a3120ddf1dbbbdee",
    "73916b129756305fc92a42b62f63317fbb42e238c31e4fcbb97265ea128438d4",
]


@pytest.fixture
def odd(db: Connection) -> Connection:
    """A day of the past with two entries of one moment, one of them with two changed rows."""
    db.execute("select audit.create_day('2026-03-14')")
    db.execute(ODD_ENTRIES.encode())
    db.execute(ODD_CHANGES.encode())
    return db


def digests_of(url: str, options: str = "") -> list[str]:
    """The leaves of that day, by connections with these options."""
    lower = datetime(2026, 3, 14, tzinfo=UTC)
    upper = lower + timedelta(days=1)
    with (
        psycopg.connect(url, autocommit=True, options=options) as first,
        psycopg.connect(url, autocommit=True, options=options) as second,
    ):
        leaves.prepare(first)
        leaves.prepare(second)
        whole = [each.digest.hex() for each in leaves.read_leaves(first, second, "entry_20260314", lower, upper)]
        noon = lower + timedelta(hours=12)
        short = leaves.read_leaves(first, second, "entry_20260314", noon, noon + timedelta(minutes=1))
        assert [each.digest.hex() for each in short] == whole
    return whole


def test_entries_are_digested_as_they_were_when_this_was_written(database: Database, odd: Connection) -> None:
    assert digests_of(database.url()) == DIGESTS


def test_no_setting_changes_a_digest(database: Database, odd: Connection) -> None:
    options = (
        "-c datestyle=SQL,DMY -c intervalstyle=sql_standard -c extra_float_digits=-15 -c bytea_output=escape"
        " -c timezone=Asia/Kathmandu -c lc_messages=C -c lc_numeric=C -c client_encoding=LATIN1 -c enable_indexscan=off"
        " -c standard_conforming_strings=on -c jit=off -c enable_seqscan=off"
    )
    assert digests_of(database.url(), options) == DIGESTS


def test_the_order_of_rows_on_disk_changes_no_digest(database: Database, odd: Connection) -> None:
    forge(
        odd,
        "create temporary table e as select * from audit.entry_20260314 order by id desc",
        "create temporary table c as select * from audit.change_20260314 order by resource_id desc",
        "delete from audit.entry_20260314",
        "delete from audit.change_20260314",
        "insert into audit.entry select * from e",
        "insert into audit.change select * from c",
    )
    assert digests_of(database.url()) == DIGESTS


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(TEXT | st.none(), TEXT, TEXT | st.none(), JSON, JSON, st.lists(st.tuples(TEXT, JSON), max_size=3)),
        max_size=4,
    )
)
def test_whatever_an_entry_holds_it_is_sealed_and_found_again(database: Database, db: Connection, rows: Any) -> None:
    for workspace, name, key, before, after, changed in rows:
        row = db.execute("select audit.insert_event('x_seen', 'x', null, %s, %s, null)", [name, workspace]).fetchone()
        assert row
        forge_row(db, row[0], key, before, after, changed)
    settle(db)
    sealed(database)
    assert found(database) == []


def forge_row(db: Connection, entry_id: Any, key: Any, before: Any, after: Any, changed: Any) -> None:
    db.execute("set session_replication_role = replica")
    db.execute(
        "update audit.entry set row_key = %s, before = %s, after = %s where id = %s",
        [key, Jsonb(before), Jsonb(after), entry_id],
    )
    db.cursor().executemany(
        "insert into audit.change select id, created_at, workspace_id, %s, null, null, null, %s from audit.entry"
        " where id = %s",
        [(text, Jsonb(value), entry_id) for text, value in changed],
    )
    db.execute("reset session_replication_role")


def test_more_changed_rows_than_memory_is_meant_for_are_sorted_on_disk(
    database: Database, db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(database, db)
    write(db, "insert into document select n, 'acme', 'x' from generate_series(10, 60) n")
    monkeypatch.setattr(leaves, "MOST_DIGESTS", 20)
    sealed(database)
    monkeypatch.undo()
    assert found(database) == []


# The chain


def test_blocks_follow_each_other_and_span_no_two_days(database: Database, db: Connection) -> None:
    begin(database, db)
    rows = db.execute(
        "select lower_bound = lag(upper_bound) over w, previous_digest = lag(digest) over w,"
        " sequence = 1 + lag(sequence) over w,"
        " (lower_bound at time zone 'UTC')::date = ((upper_bound - interval '1 microsecond') at time zone 'UTC')::date"
        " from audit.seal window w as (order by sequence)"
    ).fetchall()
    assert rows == [(None, None, None, True)] + [(True, True, True, True)] * (len(rows) - 1)
    assert len(rows) == 3


def test_a_partition_of_several_days_has_a_block_for_each(database: Database, db: Connection) -> None:
    first, second, third = several_days(db)
    moments = f"'{first} 00:00Z', '{first} 23:59:59.999999Z', '{second} 00:00Z', '{third} 12:00Z'"
    put_entries(db, f"unnest(array[{moments}]::timestamptz[])")
    settle(db)
    sealed(database)
    assert db.execute("select entries from audit.seal order by sequence limit 3").fetchall() == [(2,), (1,), (1,)]
    assert found(database) == []


def several_days(db: Connection) -> list[str]:
    """A partition of three days of the past, and what they are."""
    rows = db.execute(f"select ({TODAY} - n)::text from generate_series(4, 1, -1) n".encode()).fetchall()
    days = [row[0] for row in rows]
    for table in ("entry", "change"):
        name = f"{table}_{days[2].replace('-', '')}"
        db.execute("select audit.create_partition(%s, %s)", [table, name])
        bounds = f"from ('{days[0]}Z') to ('{days[3]}Z')"
        db.execute(f"alter table audit.{table} attach partition audit.{name} for values {bounds}".encode())
    return days[:3]


def test_a_block_ends_after_so_many_leaves_and_never_within_a_moment(
    database: Database, db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    db.execute(f"select audit.create_day({TODAY} - 2)".encode())
    put_entries(db, f"audit.day_start({TODAY} - 2) + n / 5 * interval '1 second' from generate_series(0, 19) n")
    settle(db)
    monkeypatch.setattr(seals, "MOST_LEAVES", 7)
    sealed(database)
    assert db.execute("select entries from audit.seal order by sequence limit 2").fetchall() == [(10,), (10,)]
    assert found(database) == []


def test_what_is_not_final_is_not_sealed(database: Database, db: Connection) -> None:
    begin(database, db)
    before = count(db, "select sum(entries) from audit.seal")
    writer = database.connect(autocommit=False)
    writer.execute("insert into document values (9, 'acme', 'Late')")
    db.execute("insert into document values (10, 'acme', 'Early')")
    db.execute("select audit.advance_watermark()")
    db.execute("select audit.advance_watermark()")
    sealed(database)
    assert count(db, "select sum(entries) from audit.seal") == before
    writer.commit()
    settle(db)
    sealed(database)
    assert count(db, "select sum(entries) from audit.seal") == before + 2


def test_writers_and_readers_do_not_wait_for_sealing(database: Database, db: Connection) -> None:
    begin(database, db)
    holder = database.connect(autocommit=False)
    holder.execute("lock table audit.seal in share row exclusive mode")
    holder.execute("set local role audit_owner")
    holder.execute(f"select * from audit.{today(db)} order by created_at, id".encode())
    db.execute("set lock_timeout = '1ms'")
    db.execute("insert into document values (11, 'acme', 'Now')")
    db.execute("select audit.prepare_days()")
    assert count(db, "select count(*) from audit.entry where resource_id = '11'") == 1


def today(db: Connection) -> str:
    row = db.execute("select to_char(now() at time zone 'UTC', '\"entry_\"YYYYMMDD')").fetchone()
    assert row
    return str(row[0])


def test_two_that_seal_at_once_do_not_fork_the_chain(database: Database, db: Connection) -> None:
    begin(database, db)
    write(db, "delete from document where id = 1")
    row = db.execute("select * from audit.seal order by sequence desc limit 1").fetchone()
    assert row
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="does not follow"):
        db.execute("select audit.add_seal(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)", row[:12])


def test_nobody_but_a_superuser_alters_a_seal(database: Database, db: Connection) -> None:
    begin(database, db)
    owner = database.connect("maintainer")
    owner.execute("set role audit_owner")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="only ever added to"):
        owner.execute("update audit.seal set entries = 0")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="only ever added to"):
        owner.execute("delete from audit.seal")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="only ever added to"):
        owner.execute("truncate audit.seal")


def test_a_service_seals_no_stretch_shorter_than_a_minute(database: Database, db: Connection) -> None:
    begin(database, db)
    write(db, "delete from document where id = 1")
    before = last_block(db)
    assert maintain(database.url("maintainer"), in_service=True).blocks_sealed == 0
    assert maintain(database.url("maintainer")).blocks_sealed == 1
    assert last_block(db) == before + 1


# Keys and digests kept elsewhere


def test_a_new_key_is_its_owners_alone_and_never_replaces_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "seal.key"
    assert main(["seal", "--new-key", str(path)]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("-----BEGIN PUBLIC KEY-----\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert main(["seal", "--new-key", str(path)]) == 2
    assert "a key is never replaced" in capsys.readouterr().err


def test_a_new_key_takes_over_and_both_are_given(
    database: Database, db: Connection, sealer: Sealer, tmp_path: Path
) -> None:
    begin(database, db, sealer)
    make_key(tmp_path / "second.key")
    second = Sealer(read_signing_key(tmp_path / "second.key"), sealer.keeper)
    write(db, "delete from document where id = 1")
    sealed(database, second)
    assert sealer.key
    assert second.key
    both = verify(database.url("dba"), public_keys=[sealer.key.public, second.key.public])
    assert (both.misfits, both.signed) == ([], last_block(db))
    assert told(verify(database.url("dba"), public_keys=[sealer.key.public])) == [("replaced", last_block(db), None)]


def test_each_block_is_kept_as_a_line_of_json(
    database: Database, db: Connection, sealer: Sealer, tmp_path: Path
) -> None:
    begin(database, db, sealer)
    files = sorted((tmp_path / "kept").iterdir())
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert [file.name for file in files] == sorted({f"{line['lower_bound'][:10]}.ndjson" for line in lines})
    expected = db.execute(
        "select sequence, entries, changes, encode(digest, 'hex'), encode(signature, 'hex') from audit.seal"
        " order by sequence"
    ).fetchall()
    assert [
        tuple(line[k] for k in ("sequence", "entries", "changes", "digest", "signature")) for line in lines
    ] == expected


def test_digests_that_were_not_kept_are_kept_by_a_later_run(
    database: Database, db: Connection, sealer: Sealer, tmp_path: Path
) -> None:
    begin(database, db, sealer)
    write(db, "delete from document where id = 1")
    sealed(database, Sealer(sealer.key))
    newest = max((tmp_path / "kept").iterdir())
    with newest.open("a") as file:
        file.write('{"sequence": 99, "cut by a cra')
    sealed(database, sealer)
    assert [kept.sequence for kept in read_digests(tmp_path / "kept")] == list(range(1, last_block(db) + 1))
    assert told(verify(database.url("dba"), digests=tmp_path / "kept")) == []


def test_a_log_that_was_set_back_is_not_sealed_over_the_digests_that_were_kept(
    database: Database, db: Connection, sealer: Sealer
) -> None:
    begin(database, db, sealer)
    forge(db, f"delete from audit.seal where sequence = {last_block(db)}")
    with pytest.raises(SealError, match="it was set back"):
        sealed(database, sealer)


def test_a_seal_that_fails_is_one_entry_and_upkeep_goes_on(database: Database, db: Connection, sealer: Sealer) -> None:
    begin(database, db, sealer)
    forge(db, f"update audit.seal set entries = 7 where sequence = {last_block(db)}")
    problem = "sealing: block 3, the last one, was altered: its digest is not of what it says"
    assert [maintain(database.url("maintainer"), sealer=sealer).problem for _ in range(2)] == [problem] * 2
    assert own_events(db, "event, context -> 'details' ->> 'problem'")[-1:] == [
        ("seal_failed", problem.removeprefix("sealing: "))
    ]
    assert count(db, "select count(*) from audit.entry where event = 'seal_failed'") == 1
    assert not status(database.url("dba")).is_well


# Retention, restore


def make_old(db: Connection, first: int, last: int) -> None:
    """Days of so long ago, and a retention that lets them go."""
    make_past(db, first, last)
    settle(db)


def let_go(database: Database, db: Connection, days: int) -> list[str]:
    """Let retention drop what is older than so many days; what was dropped."""
    db.execute("update audit.upkeep set retention_days = %s", [days])
    db.execute("select audit.move_oldest_day()")
    db.execute("update audit.upkeep set oldest_day_since = now() - interval '1 hour'")
    return maintain(database.url("maintainer")).days_dropped


def test_a_day_is_dropped_only_after_it_was_sealed(database: Database, db: Connection) -> None:
    make_old(db, 5, 4)
    sealed(database)
    forge(db, "delete from audit.seal where sequence > 1")
    db.execute("update audit.upkeep set retention_days = 2, oldest_day_since = now() - interval '1 hour'")
    db.execute("update audit.upkeep set oldest_day = (now() at time zone 'UTC')::date - 2")
    assert len(db.execute("select audit.days_past_retention()").fetchall()) == 1
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="is not sealed yet"):
        db.execute("select audit.drop_day('entry_' || to_char((now() at time zone 'UTC')::date - 4, 'YYYYMMDD'))")
    sealed(database)
    assert len(db.execute("select audit.days_past_retention()").fetchall()) == 2


def test_days_that_retention_dropped_are_told_and_fit(database: Database, db: Connection) -> None:
    make_old(db, 5, 4)
    sealed(database)
    assert len(let_go(database, db, 2)) == 2
    result = verify(database.url("dba"))
    assert (result.misfits, [(day.first, day.last, day.entries, day.is_told) for day in result.dropped]) == (
        [],
        [(1, 1, 1, True), (2, 2, 1, True)],
    )
    assert count(db, "select count(*) from audit.seal where dropped_at is not null and entry_keys is null") == 2


def test_a_day_that_is_dropped_while_it_is_verified_is_no_misfit(
    database: Database, db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_old(db, 5, 4)
    sealed(database)
    compute = verification.compute

    def compute_late(connections: Any, stretch: Any) -> Any:
        let_go(database, db, 2)
        return compute(connections, stretch)

    monkeypatch.setattr(verification, "compute", compute_late)
    result = verify(database.url("dba"))
    assert (result.misfits, [day.first for day in result.dropped]) == ([], [1, 2])


def test_a_day_that_held_less_when_it_was_dropped_is_found(database: Database, db: Connection) -> None:
    make_old(db, 5, 4)
    sealed(database)
    forge(db, "delete from audit.entry where created_at < now() - interval '4 days 12 hours'")
    let_go(database, db, 2)
    assert ("missing", 1, None) in found(database)


def test_a_drop_is_believed_after_its_entry_was_dropped_too(database: Database, db: Connection) -> None:
    make_old(db, 6, 2)
    sealed(database)
    let_go(database, db, 5)
    # The day on which it was dropped is made day -3, and dropped too.
    forge(
        db,
        """update audit.seal set dropped_at = upper_bound + interval '2 days 12 hours' where dropped_at is not null""",
        "delete from audit.entry where event = 'day_dropped'",
    )
    assert found(database)[:1] == [("missing", 1, None)]
    let_go(database, db, 2)
    dropped = verify(database.url("dba")).dropped
    assert [(day.first, day.is_told) for day in dropped] == [(1, False), (2, True), (3, True), (4, True)]


def test_seals_go_on_after_a_restore_into_another_database(
    database: Database, db: Connection, pg_bin: Path, sealer: Sealer, tmp_path: Path
) -> None:
    begin(database, db, sealer)
    copy = f"{database.name}_copy"
    db.execute(f"create database {copy}".encode())
    url = database.url().replace(f"/{database.name}?", f"/{copy}?")
    try:
        dump = subprocess.run([pg_bin / "pg_dump", "-Fc", database.url()], capture_output=True, check=True).stdout
        subprocess.run([pg_bin / "pg_restore", "-d", url], input=dump, check=True)
        with psycopg.connect(url, autocommit=True) as restored:
            write(restored, "insert into document values (20, 'acme', 'New')")
        seals.seal(url, sealer)
        result = verify(url, digests=tmp_path / "kept", public_keys=[sealer.key.public] if sealer.key else [])
        assert (told(result), result.entries, result.kept) == ([], 5, result.signed)
    finally:
        db.execute(f"drop database {copy} with (force)".encode())


# Commands, API


def test_verify_prints_what_does_not_fit_and_ends_with_1(
    at: Database, db: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(at, db)
    assert main(["verify"]) == 0
    assert "does not fit     nothing\n" in capsys.readouterr().out
    first, *_ = ids(db)
    forge(db, f"update audit.entry set actor_id = 'forged' where id = '{first}'")
    assert main(["verify", "--json"]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert (printed["fits"], [(m["kind"], m["entry_id"], m["workspace_id"]) for m in printed["misfits"]]) == (
        False,
        [("changed", first, "acme")],
    )


def test_verify_takes_a_part_of_the_log(database: Database, db: Connection) -> None:
    begin(database, db)
    now = datetime.now(UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    assert verify(database.url("dba"), until=midnight).entries == 0
    assert verify(database.url("dba"), since=midnight).entries == 4


def test_verify_in_several_processes_finds_the_same(database: Database, db: Connection) -> None:
    begin(database, db)
    first, *_ = ids(db)
    forge(db, f"update audit.entry set actor_id = 'forged' where id = '{first}'")
    result = verify(database.url("dba"), processes=2)
    assert (told(result), result.entries) == ([("changed", last_block(db), first)], 4)


def test_a_login_that_sees_less_verifies_nothing(database: Database, db: Connection) -> None:
    begin(database, db)
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="may not read all of the log"):
        verify(database.url("reader"))


def test_verify_prints_its_result_where_it_may_not_note_it(
    at: Database, db: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(at, db)
    db.execute("revoke execute on function audit.note_verification from audit_maintainer")
    assert main(["verify"]) == 0
    printed = capsys.readouterr()
    assert "does not fit     nothing\n" in printed.out
    assert "the result is not noted in the database: permission denied" in printed.err


def test_status_tells_of_the_last_verification(
    at: Database, db: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(at, db)
    main(["verify"])
    capsys.readouterr()
    main(["status"])
    assert re.search(r"^sealed until     .*, 3 blocks, not signed$", (out := capsys.readouterr().out), re.MULTILINE)
    assert re.search(r"^last verified    .*, 0 days 0 hours ago: all fits$", out, re.MULTILINE)


def test_seal_prints_the_lines_of_what_it_sealed(
    at: Database, db: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    db.execute(TRACKED.encode())
    settle(db)
    assert main(["seal", "--digests", "-"]) == 0
    printed = capsys.readouterr()
    assert [json.loads(line)["sequence"] for line in printed.out.splitlines()] == [1, 2]
    assert "daybook: sealed 2 blocks of 1 entries" in printed.err


@pytest.fixture
def api(database: Database, db: Connection) -> Any:
    add_keys(db)
    begin(database, db)
    with opened(database) as client:
        yield client


INTEGRITY = "/api/v1/notification/integrity/"


def test_the_api_tells_a_workspace_of_its_own_misfits(api: Client, database: Database, db: Connection) -> None:
    before = api.get(INTEGRITY, headers=AS_ADMIN).json()
    assert (before["blocks"], before["is_signed"], before["verification"]) == (3, False, None)
    first, *_ = ids(db)
    forge(db, f"update audit.entry set actor_id = 'forged' where id = '{first}'")
    main_verify(database)
    verified = api.get(INTEGRITY, headers=AS_ADMIN).json()["verification"]
    assert (verified["fits"], verified["misfits"]) == (False, [{"kind": "changed", "entry_id": first}])
    elsewhere = api.get(INTEGRITY, headers=AS_STRANGER).json()["verification"]
    assert (elsewhere["fits"], elsewhere["misfits"]) == (False, [])


def test_the_api_tells_a_member_nothing_of_it(api: Client) -> None:
    assert api.get(INTEGRITY, headers=AS_MEMBER).status_code == 403
    assert api.get(INTEGRITY).status_code == 401


def main_verify(database: Database) -> None:
    from daybook.verification import note

    assert note(database.url("dba"), verify(database.url("dba"))) is None


# Proofs


def test_the_lines_of_the_document_check_a_proof(
    at: Database, db: Connection, sealer: Sealer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(at, db, sealer)
    program = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)[-1]
    (tmp_path / "seal.pub").write_text(make_key(tmp_path / "other.key"))
    bulk = ids(db)[1]
    capsys.readouterr()
    assert main(["prove", bulk]) == 0
    proof = json.loads(capsys.readouterr().out)
    row = db.execute("select encode(digest, 'hex') from audit.seal where sequence = %s", [last_block(db)]).fetchone()
    assert row
    assert checked(program, tmp_path, proof) == (0, f"block {last_block(db)} {row[0]}\n")
    proof["changes"][0]["after"]["text"] = proof["changes"][0]["after"]["text"].replace("Costs", "Coasts")
    assert checked(program, tmp_path, proof)[0] == 1
    assert len(program.splitlines()) < 32


def checked(program: str, folder: Path, proof: dict[str, Any], *arguments: str) -> tuple[int, str]:
    """The auditor's program, without the product."""
    (folder / "proof.json").write_text(json.dumps(proof))
    command = [sys.executable, "-c", program, str(folder / "proof.json"), *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return run.returncode, run.stdout


def test_the_signature_of_a_proof_holds_by_the_public_key_alone(
    at: Database, db: Connection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "seal.pub").write_text(make_key(tmp_path / "seal.key"))
    (tmp_path / "other.pub").write_text(make_key(tmp_path / "other.key"))
    begin(at, db, Sealer(read_signing_key(tmp_path / "seal.key")))
    program = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)[-1]
    capsys.readouterr()
    assert main(["prove", ids(db)[0]]) == 0
    proof = json.loads(capsys.readouterr().out)
    assert checked(program, tmp_path, proof, str(tmp_path / "seal.pub"))[0] == 0
    assert checked(program, tmp_path, proof, str(tmp_path / "other.pub"))[0] == 1


def test_an_entry_that_is_not_sealed_has_no_proof(
    at: Database, db: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(at, db)
    write(db, "delete from document where id = 1")
    assert main(["prove", ids(db)[-1]]) == 2
    assert "not sealed yet" in capsys.readouterr().err


def test_a_path_leads_to_the_root_from_every_leaf() -> None:
    digests = [bytes([number]) * 32 for number in range(13)]
    roots = {number: climbed(digests[number], path_of(digests, number)) for number in range(13)}
    assert roots == dict.fromkeys(range(13), root_of(digests))


def climbed(digest: bytes, path: list[tuple[bool, bytes]]) -> bytes:
    for is_left, sibling in path:
        digest = root_of([sibling, digest] if is_left else [digest, sibling])
    return digest
