"""One statement on a tracked table gives one entry for each workspace, event and operation in which it changed rows."""

import hashlib
import os
import subprocess
from pathlib import Path

import psycopg
import pytest

from tests.conftest import Database
from tests.trail import Connection, changes, count, trail

pytestmark = pytest.mark.usefixtures("way")


@pytest.fixture
def document(db: Connection) -> Connection:
    """A tracked table with two rows in workspace acme, tracked only after they were written."""
    db.execute("create table document (id integer primary key, workspace_id text, title text, stars numeric)")
    db.execute("insert into document values (1, 'acme', 'Revenue', 1.0), (2, 'acme', 'Costs', 2)")
    db.execute("select audit.enable_tracking('document')")
    return db


def test_an_insert_of_one_row_keeps_the_row_in_the_entry(document: Connection) -> None:
    document.execute("insert into document values (3, 'acme', 'New', null)")
    row = {"id": 3, "title": "New", "stars": None, "workspace_id": "acme"}
    assert trail(document) == [("resource_created", "3", None, row)]


def test_a_bulk_insert_is_one_entry_with_its_rows_beside_it(document: Connection) -> None:
    document.execute("insert into document select n, 'acme', 'T', n from generate_series(3, 4) n")
    assert trail(document, "event, operation, row_count, resource_id, before, after") == [
        ("resource_created", "INSERT", 2, None, None, None)
    ]
    assert changes(document) == [
        ("3", None, {"id": 3, "title": "T", "stars": 3, "workspace_id": "acme"}),
        ("4", None, {"id": 4, "title": "T", "stars": 4, "workspace_id": "acme"}),
    ]


def test_an_update_keeps_only_what_changed(document: Connection) -> None:
    document.execute("update document set title = 'Sales', stars = stars where id = 1")
    assert trail(document) == [("resource_updated", "1", {"title": "Revenue"}, {"title": "Sales"})]


def test_an_update_from_and_to_null_keeps_the_null(document: Connection) -> None:
    document.execute("update document set title = null where id = 1")
    document.execute("update document set title = 'Again' where id = 1")
    assert trail(document) == [
        ("resource_updated", "1", {"title": "Revenue"}, {"title": None}),
        ("resource_updated", "1", {"title": None}, {"title": "Again"}),
    ]


def test_a_bulk_update_keeps_for_each_row_what_changed_in_it(document: Connection) -> None:
    document.execute("update document set title = 'Costs', stars = 2")
    assert trail(document, "row_count, before, after") == [
        (1, {"stars": 1.0, "title": "Revenue"}, {"stars": 2, "title": "Costs"})
    ]
    document.execute("update document set title = case id when 1 then 'A' else title end, stars = 3")
    assert changes(document) == [
        ("1", {"stars": 2, "title": "Costs"}, {"stars": 3, "title": "A"}),
        ("2", {"stars": 2}, {"stars": 3}),
    ]


def test_updates_that_change_nothing_leave_no_entry(document: Connection) -> None:
    document.execute("update document set title = title")
    document.execute("update document set title = title where id = 1")
    assert trail(document) == []


def test_statements_that_touch_no_row_leave_no_entry(document: Connection) -> None:
    document.execute("update document set title = 'x' where false")
    document.execute("delete from document where false")
    document.execute("insert into document select 1, 'a', 'b', 1 where false")
    assert trail(document) == []


def test_a_value_that_is_equal_but_not_identical_is_a_change(document: Connection) -> None:
    document.execute("update document set stars = 1.000 where id = 1")
    assert trail(document, "before->>'stars', after->>'stars'") == [("1.0", "1.000")]


def test_a_delete_keeps_the_row(document: Connection) -> None:
    document.execute("delete from document where id = 2")
    row = {"id": 2, "title": "Costs", "stars": 2, "workspace_id": "acme"}
    assert trail(document) == [("resource_deleted", "2", row, None)]


def test_a_truncate_is_counted_before_it_happens(document: Connection) -> None:
    document.execute("insert into document values (3, 'other', 'x', 1)")
    document.execute("truncate document")
    assert trail(document, "event, operation, workspace_id, row_count, before")[1:] == [
        ("resource_deleted", "TRUNCATE", "acme", 2, None),
        ("resource_deleted", "TRUNCATE", "other", 1, None),
    ]


def test_a_truncate_of_an_empty_table_leaves_no_entry(document: Connection) -> None:
    document.execute("delete from document")
    document.execute("truncate document")
    assert trail(document, "operation, row_count") == [("DELETE", 2)]


def test_a_statement_that_touches_two_workspaces_is_an_entry_in_each(document: Connection) -> None:
    document.execute("insert into document values (3, 'other', 'x', 1), (4, 'acme', 'y', 1), (5, 'acme', 'z', 1)")
    assert trail(document, "workspace_id, row_count, resource_id") == [("acme", 2, None), ("other", 1, "3")]
    assert changes(document, "workspace_id, resource_id") == [("acme", "4"), ("acme", "5")]


def test_on_conflict_do_update_is_one_entry_for_each_operation(document: Connection) -> None:
    document.execute(
        "insert into document values (1, 'acme', 'Again', 1), (9, 'acme', 'New', 9)"
        " on conflict (id) do update set title = excluded.title"
    )
    assert sorted(trail(document, "operation, resource_id, before")) == [
        ("INSERT", "9", None),
        ("UPDATE", "1", {"title": "Revenue"}),
    ]


def test_copy_is_captured(document: Connection) -> None:
    with document.cursor().copy("copy document from stdin") as copy:
        copy.write(b"7\tacme\tCopied\t1\n8\tacme\tCopied\t1\n")
    assert trail(document, "operation, row_count") == [("INSERT", 2)]


def test_a_rolled_back_change_has_no_entry(document: Connection) -> None:
    document.execute("begin")
    document.execute("update document set title = 'kept' where id = 1")
    document.execute("savepoint attempt")
    document.execute("update document set title = 'lost' where id = 2")
    document.execute("rollback to attempt")
    document.execute("commit")
    assert trail(document) == [("resource_updated", "1", {"title": "Revenue"}, {"title": "kept"})]


def test_a_key_change_names_the_old_key_beside_the_new(document: Connection) -> None:
    document.execute("update document set id = 10 where id = 1")
    assert trail(document, "resource_id, row_key, before, after") == [("10", "1", {"id": 1}, {"id": 10})]


def test_a_key_shift_pairs_each_row_with_itself(document: Connection) -> None:
    document.execute("alter table document drop constraint document_pkey")
    document.execute("alter table document add primary key (id) deferrable initially deferred")
    document.execute("update document set id = id + 1")
    assert changes(document, "resource_id, row_key, before, after") == [
        ("2", "1", {"id": 1}, {"id": 2}),
        ("3", "2", {"id": 2}, {"id": 3}),
    ]


def test_a_composite_key_is_a_json_array(db: Connection) -> None:
    db.execute("create table member (team text, number integer, workspace_id text, primary key (team, number))")
    db.execute("select audit.enable_tracking('member')")
    db.execute("insert into member values ('a', 1, 'acme')")
    assert trail(db, "resource_id, row_key") == [('["a", 1]', None)]


def test_a_table_without_a_key_stores_whole_rows(db: Connection) -> None:
    db.execute("create table note (text text, stars integer, workspace_id text)")
    db.execute("select audit.enable_tracking('note')")
    db.execute("insert into note values ('a', 1, 'acme')")
    db.execute("update note set stars = 2")
    assert trail(db)[1:] == [
        (
            "resource_updated",
            None,
            {"text": "a", "stars": 1, "workspace_id": "acme"},
            {"text": "a", "stars": 2, "workspace_id": "acme"},
        )
    ]


def test_one_row_and_then_many_in_one_session_stay_fast(document: Connection) -> None:
    # A plan kept from the first call would be a nested loop over 20,000 x 20,000 rows: it ends at the time-out.
    document.execute("insert into document select n, 'acme', 'T', n from generate_series(3, 20002) n")
    document.execute("update document set title = 'one' where id = 1")
    document.execute("set statement_timeout = '20s'")
    document.execute("update document set title = 'many' where id > 2")
    assert trail(document, "operation, row_count") == [("INSERT", 20000), ("UPDATE", 1), ("UPDATE", 20000)]
    assert count(document, "select count(*) from audit.change where after->>'title' = 'many'") == 20000


def test_types_are_kept_whatever_they_are(db: Connection) -> None:
    db.execute("create type mood as enum ('fine', 'bad')")
    db.execute("create domain positive as integer check (value > 0)")
    db.execute("create type pair as (a integer, b text)")
    db.execute(
        "create table sample (id integer primary key, workspace_id text, j json, p point, m mood, d positive, c pair,"
        " ms mood[], b bytea, f double precision, i interval, t timestamptz, r int4range, n numeric,"
        " g integer generated always as (id * 2) stored)"
    )
    db.execute("select audit.enable_tracking('sample')")
    db.execute("set timezone = 'Asia/Tokyo'; set datestyle = 'German'; set extra_float_digits = -15")
    db.execute(
        r"""insert into sample values (1, 'acme', '{"a":  "\u0000"}', '(1,2)', 'fine', 3, '(1,x)', '{bad,fine}',
        '\x00ff', 'NaN', '1 mon', '2026-03-14 12:00:00.5+01', '[1,5)', 'Infinity')"""
    )
    assert trail(db, "after - 'workspace_id'") == [
        (
            {
                "id": 1,
                "j": r'{"a":  "\u0000"}',
                "p": "(1,2)",
                "m": "fine",
                "d": 3,
                "c": "(1,x)",
                "ms": "{bad,fine}",
                "b": r"\x00ff",
                "f": "NaN",
                "i": "1 mon",
                "t": "2026-03-14T11:00:00.5+00:00",
                "r": "[1,5)",
                "n": "Infinity",
                "g": 2,
            },
        )
    ]


def test_types_without_equality_are_compared_by_their_bytes(db: Connection) -> None:
    db.execute("create table sample (id integer primary key, workspace_id text, j json, p point, i interval)")
    db.execute("insert into sample values (1, 'acme', '[1]', '(1,2)', '1 mon')")
    db.execute("select audit.enable_tracking('sample')")
    db.execute("update sample set j = '[1]', p = '(1,2)', i = '1 mon'")
    db.execute("update sample set j = '[ 1]', i = '30 days'")
    assert trail(db, "before, after") == [({"j": "[1]", "i": "1 mon"}, {"j": "[ 1]", "i": "30 days"})]


def test_column_names_that_mean_something_elsewhere_do_no_harm(db: Connection) -> None:
    db.execute(
        'create table "Select" ("user" integer primary key, workspace_id text, "audit_n" text, "r" text, "v" text,'
        ' audit_moment text, "a\'b" text, "c%d" text, id text, created_at text, event text)'
    )
    db.execute("select audit.enable_tracking('\"Select\"')")
    db.execute(
        """insert into "Select" ("user", workspace_id, audit_n, "a'b") values (1, 'w', 'x', 'y'), (2, 'w', '', '')"""
    )
    db.execute("""update "Select" set audit_n = '1', r = '2', v = '3', audit_moment = '4', "a'b" = '5', "c%d" = '6'""")
    db.execute("""update "Select" set id = '7', event = '8' where "user" = 1""")
    db.execute("""delete from "Select" where "user" = 1""")
    assert trail(db, "operation, table_name, resource_type, row_count, after->>'event'") == [
        ("INSERT", "Select", "Select", 2, None),
        ("UPDATE", "Select", "Select", 2, None),
        ("UPDATE", "Select", "Select", 1, "8"),
        ("DELETE", "Select", "Select", 1, None),
    ]


def test_a_table_of_two_hundred_columns_is_captured(db: Connection) -> None:
    columns = ", ".join(f"c{number} integer default {number}" for number in range(200))
    db.execute(f"create table wide (id integer primary key, workspace_id text, {columns})".encode())
    db.execute("select audit.enable_tracking('wide')")
    db.execute("insert into wide (id, workspace_id) values (1, 'acme'), (2, 'acme')")
    db.execute("update wide set c199 = 0 where id = 1")
    changed = ", ".join(f"c{number} = -1" for number in range(120))
    db.execute(f"update wide set {changed}".encode())
    assert trail(db, "operation, row_count, after") == [
        ("INSERT", 2, None),
        ("UPDATE", 1, {"c199": 0}),
        ("UPDATE", 2, None),
    ]
    assert count(db, "select count(*) from audit.change, jsonb_object_keys(after) where before is not null") == 240


def test_a_value_over_the_limit_is_cut_with_its_size_and_digest(db: Connection) -> None:
    db.execute("create table file (id integer primary key, workspace_id text, body text, raw bytea, tree jsonb)")
    db.execute("select audit.enable_tracking('file', max_value_bytes => 1000)")
    db.execute("insert into file values (1, 'acme', repeat('x', 1001), decode(repeat('00', 1001), 'hex'), null)")
    db.execute("update file set body = repeat('x', 1000), tree = to_jsonb(repeat('y', 5000))")
    cut = {"cut": True, "bytes": 1001, "sha256": hashlib.sha256(b"x" * 1001).hexdigest()}
    assert trail(db, "after->'body', after->'raw'")[0] == (
        cut,
        {"cut": True, "bytes": 1001, "sha256": hashlib.sha256(b"\0" * 1001).hexdigest()},
    )
    assert trail(db, "before->'body', after->'body', after->'tree'")[1] == (
        cut,
        "x" * 1000,
        {"cut": True, "bytes": 5002, "sha256": hashlib.sha256(b'"' + b"y" * 5000 + b'"').hexdigest()},
    )


def test_an_id_of_any_length_fails_no_write(db: Connection) -> None:
    db.execute("create table note (id integer primary key, name text)")
    db.execute(
        "select audit.enable_tracking('note', 'permission', resource_id_columns => '{name}',"
        " workspace_column => 'name', resource_name_column => 'name', subject_column => 'name')"
    )
    # Not repeat(): it must not be compressible into what an index can hold.
    db.execute("insert into note select 1, string_agg(md5(n::text), '') from generate_series(1, 1000) n")
    db.execute("update note set id = id + 1")
    lengths = "octet_length(resource_id), octet_length(workspace_id), length(resource_name), length(after->>'name')"
    assert trail(db, lengths) == [(267, 267, 500, 32000), (267, 267, 500, None)]


def test_session_replication_role_does_not_silence_the_log(document: Connection) -> None:
    document.execute("set session_replication_role = replica")
    document.execute("update document set title = 'x' where id = 1")
    assert trail(document, "after") == [({"title": "x"},)]


@pytest.mark.parametrize(
    "setting",
    [
        "row_security = off",
        "standard_conforming_strings = off",
        "quote_all_identifiers = on",
        "transform_null_equals = on",
        "enable_hashjoin = off; set enable_mergejoin = off",
        "plan_cache_mode = force_generic_plan",
        "default_transaction_isolation = 'serializable'",
        "constraint_exclusion = on",
        "search_path = ''",
    ],
)
def test_the_callers_settings_do_not_matter(document: Connection, setting: str) -> None:
    document.execute(f"set {setting}".encode())
    document.execute("insert into public.document values (3, 'acme', 'x', 1)")
    document.execute("update public.document set title = 'y'")
    document.execute("delete from public.document where id = 3")
    document.execute("truncate public.document")
    assert trail(document, "operation, row_count")[:3] == [("INSERT", 1), ("UPDATE", 3), ("DELETE", 1)]
    assert trail(document, "operation")[3:] == [("TRUNCATE",)]


ODD = (
    "set timezone = 'Asia/Tokyo'; set datestyle = 'German'; set intervalstyle = 'sql_standard';"
    " set extra_float_digits = -15; set bytea_output = 'escape'"
)
USUAL = "reset timezone; reset datestyle; reset intervalstyle; reset extra_float_digits; reset bytea_output"
EVERY_SETTING = ["bytea_output", "constraint_exclusion", "datestyle", "extra_float_digits", "intervalstyle", "jit"]


@pytest.mark.parametrize(
    ("columns", "values", "options", "wanted"),
    [
        ("a text, b numeric, c jsonb, d uuid[], m mood, x date, y timestamp",
         "'ä', 1.50, '{\"n\": 1.0}', '{}', 'fine', '2026-03-04', '2026-03-04 05:06:07.8'", "", []),
        ("a timestamptz, b timestamptz[]", "'2026-03-04 05:06:07.8+02', '{2026-03-04 05:06:07+02}'", "", ["timezone"]),
        ("a date", "'2026-03-04'", ", resource_name_column => 'a'", [*EVERY_SETTING, "timezone"]),
        ("a timestamptz", "'2026-03-04 05:06:07+02'", ", resource_id_columns => '{a}'", [*EVERY_SETTING, "timezone"]),
        ("a real, b interval, c bytea, d tstzrange", "0.1, '1 mon', '\\x00ff', '[2026-03-04 05:06:07+02,)'", "",
         [*EVERY_SETTING, "timezone"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("rows", [1, 2])
def test_a_function_sets_what_its_types_need_and_no_more(
    db: Connection, columns: str, values: str, options: str, wanted: list[str], rows: int
) -> None:
    db.execute("create type mood as enum ('fine', 'bad')")
    db.execute(f"create table sample (id integer primary key, workspace_id text, {columns})".encode())
    db.execute(f"select audit.enable_tracking('sample'{options})".encode())
    for number, settings in enumerate((ODD, USUAL)):
        db.execute(settings)
        for row in range(rows):
            db.execute(f"insert into sample values ({10 * number + row}, 'acme', {values})".encode())
        db.execute(f"delete from sample where id >= {10 * number}".encode())
    told = "operation, resource_name, before - 'id', after - 'id', nullif(resource_id ~ '^[0-9]+$', true), resource_id"
    found = [row[:5] + ((row[5],) if row[4] is not None else ()) for row in trail(db, told)]
    kept = db.execute(
        "select resource_name, before - 'id', nullif(resource_id ~ '^[0-9]+$', true) from audit.change order by row_key"
    ).fetchall()
    assert found[: len(found) // 2] == found[len(found) // 2 :]
    assert kept[: len(kept) // 2] == kept[len(kept) // 2 :]
    config = db.execute("select unnest(proconfig) from pg_proc where proname ~ '^capture_[0-9]+$'").fetchall()
    names = {one.partition("=")[0].lower() for (one,) in config}
    assert names == {"row_security", "search_path", *wanted}


def test_a_truncate_in_a_repeatable_read_transaction_leaves_an_estimated_entry(
    database: Database, document: Connection
) -> None:
    document.execute("analyze document")
    old = database.connect()
    old.execute("begin isolation level repeatable read; select 1")
    document.execute("insert into document values (3, 'acme', 'x', 1)")
    old.execute("truncate document; commit")
    estimated = {"details": {"row_count_is_estimated": True}}
    assert trail(document, "operation, row_count, context")[1:] == [("TRUNCATE", 2, estimated)]


def test_odd_keys_are_captured(db: Connection) -> None:
    db.execute(
        'create table odd (pk text collate "C" primary key, other text collate "POSIX", workspace_id text, js json[])'
    )
    db.execute("select audit.enable_tracking('odd', 'permission', resource_id_columns => '{other}')")
    db.execute(
        r"""insert into odd values ('a', 'r', 'acme', array['{"a": "\u0000"}']::json[]), ('b', 'r', 'acme', null)"""
    )
    db.execute("update odd set other = 's'")
    assert trail(db, "operation, row_count, resource_id") == [("INSERT", 2, "r"), ("UPDATE", 2, "s")]


def test_keys_of_a_nondeterministic_collation_are_told_apart(db: Connection) -> None:
    try:
        db.execute("create collation loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
    except psycopg.errors.FeatureNotSupported:
        pytest.skip("this server was built without ICU")
    db.execute("create table odd (pk text collate loose primary key, workspace_id text)")
    db.execute("select audit.enable_tracking('odd')")
    db.execute("insert into odd values ('a', 'acme')")
    db.execute("update odd set pk = 'A'")
    assert trail(db, "resource_id, row_key, before, after")[1:] == [("A", "a", {"pk": "a"}, {"pk": "A"})]


@pytest.mark.parametrize(
    "given",
    [
        b"-c audit.actor_id=a\xff -c audit.reason=\xc3",
        # A full stop and a digit in more bytes than they have, and the second byte of a character alone.
        b"-c audit.actor_id=a\xc0\xae",
        b"-c audit.actor_id=a -c audit.ip=\xc0\xb1.1.1.1",
        b"-c audit.actor_id=a -c audit.actor_name=\x80",
    ],
)
def test_bytes_that_are_no_text_fail_neither_write_nor_read(
    database: Database, document: Connection, pg_bin: Path, given: bytes
) -> None:
    options = os.fsdecode(given)
    command = [str(pg_bin / "psql"), "--quiet", "--dbname", database.url()]
    update = ["--command", "update document set title = 'x' where id = 1"]
    subprocess.run([*command, *update], env={**os.environ, "PGOPTIONS": options}, check=True)
    assert trail(document, "actor_id, context") == [
        ("system", {"invalid": {"encoding": "actor and context hold bytes that are no text"}})
    ]


def test_the_callers_search_path_and_temporary_tables_do_not_matter(document: Connection) -> None:
    document.execute("create temporary table entry (like audit.entry)")
    document.execute("create function public.greatest_trap(text, text) returns boolean language sql return true")
    document.execute("create operator public.<> (leftarg = text, rightarg = text, function = public.greatest_trap)")
    document.execute("set search_path = pg_temp, public")
    document.execute("update public.document set title = 'x' where id = 1")
    assert trail(document, "after") == [({"title": "x"},)]


def test_an_entry_carries_its_moment_in_its_id(document: Connection) -> None:
    document.execute("update document set title = 'x' where id = 1")
    assert trail(
        document, "audit.entry_moment(id) = created_at, substr(id::text, 15, 1), id::text ~ '^.{19}[89ab]'"
    ) == [(True, "7", True)]


def test_the_last_microsecond_of_a_day_stays_in_it(db: Connection) -> None:
    moment = "2026-03-14 23:59:59.999999+00"
    assert db.execute(
        "select audit.entry_moment(audit.new_entry_id(%s)) = %s::timestamptz", [moment, moment]
    ).fetchone() == (True,)


def test_no_entry_lies_below_the_floor(document: Connection) -> None:
    document.execute("select setval('audit.floor', (extract(epoch from timestamptz '2100-01-01Z') * 1000000)::bigint)")
    document.execute("update document set title = 'x' where id = 1")
    assert trail(document, "created_at at time zone 'UTC' = '2100-01-01'") == [(True,)]


def test_the_login_stands_beside_the_actor(database: Database, document: Connection) -> None:
    document.execute("grant select, update on document to app_user")
    user = database.connect("app_user")
    user.execute("begin; select set_config('audit.actor_id', '42', true); update document set title = 'x' where id = 1")
    user.execute("commit")
    assert trail(document, "actor_id, database_user") == [("42", "app_user")]


def test_capture_uses_no_subtransaction(document: Connection) -> None:
    document.execute("do $$ begin for n in 1..100 loop update document set stars = n; end loop; end $$")
    # A row written in a subtransaction carries the subtransaction's id as its xmin.
    assert (
        trail(document, "row_count, xmin::text = (transaction_id::text::bigint % 4294967296)::text")
        == [(2, True)] * 100
    )
