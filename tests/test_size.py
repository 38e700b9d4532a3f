"""Many rows, many statements and large values: capture takes them without failing the write or growing.

It must not measure time: a statement_timeout only ends what would take minutes.
"""

import hashlib
from pathlib import Path

import psycopg
import pytest

from tests.conftest import Database
from tests.trail import Connection, changes, count, trail

MEGABYTE = 1024
# A million rows in one array or one query's memory would take ten times as much.
MEMORY_OF_A_STATEMENT = 96 * MEGABYTE
MEMORY_OF_NINETY_THOUSAND_STATEMENTS = 2 * MEGABYTE

reads_memory = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="a process's memory is read from /proc, which is Linux's"
)


def memory(connection: Connection, line: str) -> int:
    """A line of the backend's /proc/<pid>/status in kB: VmHWM is its peak, RssAnon its own part now (proc(5))."""
    lines = Path(f"/proc/{connection.info.backend_pid}/status").read_text().splitlines()
    return next(int(text.split()[1]) for text in lines if text.startswith(f"{line}:"))


@pytest.fixture
def document(db: Connection) -> Connection:
    db.execute("create table document (id integer primary key, workspace_id text, title text, stars integer)")
    return db


# Rows


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    ("one", "many", "operation"),
    [
        (
            "insert into document values (0, 'acme', 'x', 0)",
            "insert into document select n, 'acme', 'x', n from generate_series(20001, 40000) n",
            "INSERT",
        ),
        ("update document set title = 'one' where id = 1", "update document set title = 'y'", "UPDATE"),
        ("delete from document where id = 20000", "delete from document", "DELETE"),
    ],
)
def test_one_row_then_twenty_thousand_then_one_again_in_one_session(
    document: Connection, one: str, many: str, operation: str
) -> None:
    # A plan kept from the first call would be a nested loop over 20,000 x 20,000 rows: it ends at the time-out.
    document.execute("insert into document select n, 'acme', 'x', n from generate_series(1, 20000) n")
    document.execute("select audit.enable_tracking('document')")
    document.execute("set statement_timeout = '20s'")
    document.execute(one.encode())
    document.execute(many.encode())
    document.execute("insert into document values (50000, 'acme', 'z', 0)")
    document.execute("delete from document where id = 50000")
    rows = {"INSERT": 20000, "UPDATE": 20000, "DELETE": 19999}[operation]
    assert trail(document, "operation, row_count") == [
        (operation, 1),
        (operation, rows),
        ("INSERT", 1),
        ("DELETE", 1),
    ]
    assert count(document, "select count(distinct resource_id) from audit.change") == rows


@reads_memory
def test_a_statement_may_change_a_million_rows(database: Database, document: Connection) -> None:
    document.execute("insert into document select n, 'acme', 'T', n % 7 from generate_series(1, 1000000) n")
    document.execute("select audit.enable_tracking('document')")
    writer = database.connect()
    writer.execute("update document set stars = stars + 10")
    buffers = document.execute("select setting::integer * 8 from pg_settings where name = 'shared_buffers'").fetchone()
    assert buffers is not None
    assert memory(writer, "VmHWM") < buffers[0] + MEMORY_OF_A_STATEMENT

    assert trail(document, "operation, row_count, resource_id, before, after") == [
        ("UPDATE", 1000000, None, None, None)
    ]
    # 142,857 times 0 + 1 + … + 6, and 1 of the last row.
    assert document.execute(
        "select count(*), sum(resource_id::bigint), sum((before ->> 'stars')::integer),"
        " sum((after ->> 'stars')::integer), count(distinct entry_id), max(length(before::text)) from audit.change"
    ).fetchall() == [(1000000, 500000500000, 2999998, 12999998, 1, 12)]
    assert document.execute(
        "select resource_id, row_key, before, after from audit.change where resource_id in ('1', '500000', '1000000')"
        " order by resource_id::integer"
    ).fetchall() == [
        ("1", None, {"stars": 1}, {"stars": 11}),
        ("500000", None, {"stars": 4}, {"stars": 14}),
        ("1000000", None, {"stars": 1}, {"stars": 11}),
    ]


# Statements

STATEMENTS = """
do $$
begin
    for n in {first} .. {last} loop
        if n % 100 = 0 then
            insert into document values (200000 + n, 'acme', 'one of two', n), (400000 + n, 'acme', 'two of two', n);
        elsif n % 10 < 6 then
            insert into document values (200000 + n, 'acme', 'alone', n);
        elsif n % 10 < 9 then
            update document set stars = n where id = n;
        else
            delete from document where id = n;
        end if;
    end loop;
end
$$
"""


@reads_memory
def test_a_transaction_may_hold_a_hundred_thousand_statements(database: Database, document: Connection) -> None:
    document.execute("insert into document select n, 'acme', 'T', 0 from generate_series(1, 100000) n")
    document.execute("select audit.enable_tracking('document')")
    writer = database.connect()
    writer.execute("begin")
    writer.execute(STATEMENTS.format(first=1, last=10000).encode())
    after_some = memory(writer, "RssAnon")
    writer.execute(STATEMENTS.format(first=10001, last=100000).encode())
    assert memory(writer, "RssAnon") - after_some < MEMORY_OF_NINETY_THOUSAND_STATEMENTS
    writer.execute("commit")

    assert document.execute(
        "select operation, row_count, count(*), sum(resource_id::bigint) from audit.entry"
        " where operation <> 'EVENT' group by 1, 2 order by 1, 2"
    ).fetchall() == [
        ("DELETE", 1, 10000, 500040000),
        ("INSERT", 1, 59000, 14749900000),
        ("INSERT", 2, 1000, None),
        ("UPDATE", 1, 30000, 1500060000),
    ]
    assert count(document, "select count(*) from audit.change") == 2000
    # A row written in a subtransaction carries the subtransaction's id as its xmin.
    assert document.execute(
        "select distinct xmin::text = (transaction_id::text::bigint % 4294967296)::text, min(transaction_id::text)"
        " over () = max(transaction_id::text) over () from audit.entry where operation <> 'EVENT'"
    ).fetchall() == [(True, True)]


@pytest.mark.usefixtures("way")
def test_statements_of_a_pipeline_are_captured_in_their_order(database: Database, document: Connection) -> None:
    document.execute("insert into document values (1, 'acme', 'T', 0)")
    document.execute("select audit.enable_tracking('document')")
    client = database.connect(autocommit=False)
    with client.pipeline():
        for number in range(1, 1001):
            client.execute("update document set stars = %s where id = 1", [number])
    client.commit()
    assert trail(document, "resource_id, (before ->> 'stars')::integer, (after ->> 'stars')::integer") == [
        ("1", number - 1, number) for number in range(1, 1001)
    ]


# Values. The limit is 1000 bytes: of a value's text, of a bytea itself.


def cut(value: bytes) -> dict[str, object]:
    return {"cut": True, "bytes": len(value), "sha256": hashlib.sha256(value).hexdigest()}


# Type, a text of exactly 1000 bytes, what the entry holds of it, and a text of a byte or two more.
VALUES = {
    "plain": ("text", "x" * 1000, "x" * 1000, "x" * 1001),
    "accents": ("varchar", "é" * 500, "é" * 500, "é" * 501),
    "of_domain": ("paragraph", "x" * 1000, "x" * 1000, "x" * 1001),
    "tree": ("jsonb", f'["{"x" * 996}"]', ["x" * 996], f'["{"x" * 997}"]'),
    "source": ("json", f'[ "{"x" * 995}"]', f'[ "{"x" * 995}"]', f'[ "{"x" * 996}"]'),
    "texts": ("text[]", f"{{{'x' * 998}}}", ["x" * 998], f"{{{'x' * 999}}}"),
    "numbers": ("integer[]", f"{{10{',1' * 498}}}", [10] + [1] * 498, f"{{100{',1' * 498}}}"),
    "digits": ("numeric", "1" * 1000, int("1" * 1000), "1" * 1001),
    "pair": ("pair", f"(1,{'x' * 996})", f"(1,{'x' * 996})", f"(1,{'x' * 997})"),
    "pairs": ("pair[]", f'{{"(1,{"x" * 992})"}}', f'{{"(1,{"x" * 992})"}}', f'{{"(1,{"x" * 993})"}}'),
    "words": ("tsvector", f"'{'x' * 998}'", f"'{'x' * 998}'", f"'{'x' * 999}'"),
    "bits": ("bit varying", "1" * 1000, "1" * 1000, "1" * 1001),
}


@pytest.mark.usefixtures("way")
def test_a_value_of_the_limit_is_kept_and_a_byte_more_is_cut_whatever_its_type(db: Connection) -> None:
    db.execute("create domain paragraph as text; create type pair as (a integer, b text)")
    columns = ", ".join(f"{name} {value[0]}" for name, value in VALUES.items())
    db.execute(f"create table sample (id integer primary key, workspace_id text, {columns}, raw bytea)".encode())
    db.execute("select audit.enable_tracking('sample', max_value_bytes => 1000)")
    insert = f"insert into sample values (%s, 'acme'{', %s' * len(VALUES)}, %s)"
    db.execute(insert.encode(), [1, *(value[1] for value in VALUES.values()), b"\0" * 1000])
    db.execute(insert.encode(), [2, *(value[3] for value in VALUES.values()), b"\0" * 1001])
    db.execute("create table other as select * from sample; delete from sample where id = 2")
    names = ", ".join([*VALUES, "raw"])
    db.execute(f"update sample s set ({names}) = (select {names} from other where id = 2)".encode())
    db.execute(
        "insert into sample select * from other where id = 2 union all select 3, o.workspace_id,"
        f" {', '.join(f'o.{name}' for name in [*VALUES, 'raw'])} from other o where id = 1".encode()
    )

    row = {"id": 1, "workspace_id": "acme"}
    kept = {name: value[2] for name, value in VALUES.items()} | {"raw": r"\x" + "00" * 1000}
    over = {name: cut(value[3].encode()) for name, value in VALUES.items()} | {"raw": cut(b"\0" * 1001)}
    assert trail(db, "operation, row_count, before, after") == [
        ("INSERT", 1, None, row | kept),
        ("INSERT", 1, None, row | over | {"id": 2}),
        ("DELETE", 1, row | over | {"id": 2}, None),
        ("UPDATE", 1, kept, over),
        ("INSERT", 2, None, None),
    ]
    assert changes(db) == [("2", None, row | over | {"id": 2}), ("3", None, row | kept | {"id": 3})]


@pytest.mark.parametrize(
    ("kind", "at_the_limit", "over"),
    [
        ("xml", f"<a>{'x' * 993}</a>", f"<a>{'x' * 994}</a>"),
        ("hstore", f'"k"=>"{"x" * 993}"', f'"k"=>"{"x" * 994}"'),
    ],
)
def test_a_value_of_a_type_that_not_every_server_has_is_cut_too(
    db: Connection, kind: str, at_the_limit: str, over: str
) -> None:
    try:
        db.execute("create extension hstore" if kind == "hstore" else "select '<a/>'::xml")
    except psycopg.errors.FeatureNotSupported:
        pytest.skip(f"this server was built without {kind}")
    db.execute(f"create table sample (id integer primary key, workspace_id text, v {kind})".encode())
    db.execute("select audit.enable_tracking('sample', max_value_bytes => 1000)")
    db.execute("insert into sample values (1, 'acme', %s)", [at_the_limit])
    db.execute("update sample set v = %s", [over])
    db.execute("insert into sample values (2, 'acme', %s), (3, 'acme', %s)", [at_the_limit, over])
    assert trail(db, "operation, before -> 'v', after -> 'v'") == [
        ("INSERT", None, at_the_limit),
        ("UPDATE", at_the_limit, cut(over.encode())),
        ("INSERT", None, None),
    ]
    assert changes(db, "resource_id, after -> 'v'") == [("2", at_the_limit), ("3", cut(over.encode()))]


def test_a_row_of_two_hundred_values_at_the_limit_is_kept_whole(db: Connection) -> None:
    names = [f"c{number}" for number in range(200)]
    columns = ", ".join(f"{name} text" for name in names)
    db.execute(f"create table wide (id integer primary key, workspace_id text, {columns})".encode())
    db.execute("select audit.enable_tracking('wide')")
    values = ", ".join(f"repeat('x', {65536 + number % 2})" for number in range(200))
    db.execute(f"insert into wide select n, 'acme', {values} from generate_series(1, 1) n".encode())
    db.execute(f"insert into wide select n, 'acme', {values} from generate_series(2, 3) n".encode())
    sizes = (
        "select count(*) filter (where jsonb_typeof(v.value) = 'string' and length(v.value #>> '{}') = 65536),"
        " count(*) filter (where v.value -> 'bytes' = '65537')"
    )
    kept = "lateral jsonb_each(after - '{id,workspace_id}'::text[]) v"
    assert db.execute(f"{sizes} from audit.entry, {kept} where row_count = 1".encode()).fetchall() == [(100, 100)]
    assert db.execute(f"{sizes} from audit.change, {kept} group by resource_id".encode()).fetchall() == [
        (100, 100),
        (100, 100),
    ]


@pytest.mark.usefixtures("way")
def test_json_of_thousands_of_levels_is_kept(db: Connection) -> None:
    db.execute("create table sample (id integer primary key, workspace_id text, tree jsonb, source json)")
    db.execute("select audit.enable_tracking('sample')")
    db.execute("create table deep as select (repeat('[', 5000) || repeat(']', 5000)) as text")
    db.execute("insert into sample select 1, 'acme', text::jsonb, text::json from deep")
    db.execute("insert into sample select n, 'acme', text::jsonb, text::json from deep, generate_series(2, 3) n")
    db.execute("update sample set tree = jsonb_build_array(tree) where id = 1")
    same = "after -> 'tree' = (select text::jsonb from deep), after ->> 'source' = (select text from deep)"
    assert trail(db, f"operation, {same}, before -> 'tree' = (select text::jsonb from deep)") == [
        ("INSERT", True, True, None),
        ("INSERT", None, None, None),
        ("UPDATE", False, None, True),
    ]
    assert changes(db, same) == [(True, True)] * 2


def test_many_values_under_the_largest_limit_fail_no_write(db: Connection) -> None:
    names = [f"c{number}" for number in range(9)]
    columns = ", ".join(f"{name} bytea" for name in names)
    db.execute(f"create table wide (id integer primary key, workspace_id text, {columns})".encode())
    db.execute("select audit.enable_tracking('wide', max_value_bytes => 16777216)")
    db.execute("create table large as select convert_to(repeat('x', 16000000), 'UTF8') as value")
    db.execute(f"insert into wide select 1, 'acme'{', value' * 9} from large".encode())
    assert trail(db, "operation, row_count") == [("INSERT", 1)]


@pytest.mark.parametrize(
    "value", ["1e131071::numeric", "'[1e131071, 1]'::jsonb", "'{1e131071}'::numeric[]", "'[1,1e131071)'::numrange"]
)
def test_a_number_with_many_zeros_is_as_long_as_its_text(db: Connection, value: str) -> None:
    kind = value.rpartition("::")[2]
    db.execute(f"create table sample (id integer primary key, workspace_id text, v {kind})".encode())
    db.execute("select audit.enable_tracking('sample')")
    db.execute(f"insert into sample values (1, 'acme', {value})".encode())
    assert trail(db, "after -> 'v' -> 'cut'") == [(True,)]
