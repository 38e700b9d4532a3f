"""DDL on the types of a tracked table's columns: no write fails by it, in no session, and no cast of theirs is run."""

import pytest

from tests.conftest import Database
from tests.trail import Connection, changes, count, own_events, trail


@pytest.fixture(params=["followed", "unfollowed"])
def document(request: pytest.FixtureRequest, db: Connection) -> Connection:
    db.execute("create schema other; create type mood as enum ('sad', 'glad')")
    db.execute("create type place as (street text, number integer)")
    db.execute("create domain few as integer constraint is_small check (value < 10)")
    db.execute("create type span as range (subtype = integer)")
    db.execute(
        "create table document (id integer primary key, workspace_id text, mood mood, moods mood[], place place,"
        " few few, span span)"
    )
    db.execute("select audit.enable_tracking('document')")
    if request.param == "unfollowed":
        db.execute("alter event trigger audit_follow_ddl disable; alter event trigger audit_follow_drop disable")
    return db


@pytest.fixture
def writer(database: Database, document: Connection) -> Connection:
    """Another session, which wrote before and keeps its plans: of its statements and of the capture function."""
    writer = database.connect()
    writer.execute("set plan_cache_mode = force_generic_plan")
    write(writer, 1)
    return writer


VALUES = "'acme', 'glad', '{sad,glad}', '(Main,1)', 3, '[1,5)'"
ROW = {
    "workspace_id": "acme",
    "mood": "glad",
    "moods": "{sad,glad}",
    "place": "(Main,1)",
    "few": 3,
    "span": "[1,5)",
}


def write(connection: Connection, number: int) -> None:
    """Insert one row, change it, insert two by one statement and delete the first."""
    execute = [
        f"insert into document values ({number}, {VALUES})",
        f"update document set mood = null, few = 4 where id = {number}",
        f"insert into document values ({number}0, {VALUES}), ({number}1, {VALUES})",
        f"delete from document where id = {number}",
    ]
    for statement in execute:
        connection.execute(statement.encode(), prepare=True)


def written(number: int, row: dict[str, object], name: str = "mood") -> list[tuple[object, ...]]:
    """Return the entries that `write` leaves when `row` is what the log shows of the values."""
    key = str(number)
    return [
        ("INSERT", key, None, {"id": number, **row}),
        ("UPDATE", key, {name: row[name], "few": 3}, {name: None, "few": 4}),
        ("INSERT", None, None, None),
        ("DELETE", key, {"id": number, **row, name: None, "few": 4}, None),
    ]


WHAT = "operation, resource_id, before, after"


@pytest.mark.parametrize(
    ("ddl", "changed"),
    [
        ("alter type mood rename to temper", {}),
        ("alter type mood set schema other; alter type place set schema other", {}),
        ("alter domain few rename to small; alter domain small set schema other", {}),
        ("alter schema other rename to another; alter type span set schema another", {}),
        ("alter type mood add value 'calm' before 'glad'", {}),
        ("alter domain few drop constraint is_small", {}),
        ("alter domain few add constraint is_positive check (value > 0) not valid", {}),
        ("alter domain few set default 5; alter domain few set not null", {}),
        ("alter type place rename attribute number to no", {}),
        (
            "alter type mood owner to app_owner; alter domain few owner to app_owner",
            {},
        ),
        ("create cast (mood as text) with inout as implicit; create cast (place as text) with inout as implicit", {}),
        ("alter table document alter mood type text", {}),
        ("alter table document alter moods type text[]", {"moods": ["sad", "glad"]}),
        ("alter table document alter few type integer", {}),
        ("alter table document alter span type int4range using int4range(lower(span), upper(span))", {}),
        (
            (
                "alter type mood rename to old; create type mood as enum ('glad', 'sad', 'calm');"
                " alter table document alter mood type mood using mood::text::mood;"
                " alter table document alter moods type mood[] using moods::text[]::mood[]; drop type old"
            ),
            {},
        ),
    ],
)
def test_writes_of_another_session_go_on(
    document: Connection, writer: Connection, ddl: str, changed: dict[str, object]
) -> None:
    document.execute(ddl.encode())
    write(writer, 2)
    row = ROW | changed
    assert trail(document, WHAT) == written(1, ROW) + written(2, row)
    assert changes(document) == [
        (str(key), None, {"id": key, **values}) for key, values in [(10, ROW), (11, ROW), (20, row), (21, row)]
    ]


def test_an_enums_value_goes_into_the_log_under_its_new_name(document: Connection, writer: Connection) -> None:
    document.execute("alter type mood rename value 'glad' to 'happy'")
    writer.execute("insert into document (id, workspace_id, mood, moods) values (2, 'acme', 'happy', '{happy}')")
    writer.execute("update document set mood = 'sad' where id = 2 or id = 10")
    assert trail(document, "operation, resource_id, after->>'mood', after->>'moods', row_count")[4:] == [
        ("INSERT", "2", "happy", "{happy}", 1),
        ("UPDATE", None, None, None, 2),
    ]
    assert changes(document, "resource_id, before, after")[2:] == [
        ("10", {"mood": "happy"}, {"mood": "sad"}),
        ("2", {"mood": "happy"}, {"mood": "sad"}),
    ]


def test_an_enums_new_value_is_written_by_every_session(document: Connection, writer: Connection) -> None:
    document.execute("alter type mood add value 'calm'")
    document.execute("insert into document (id, mood) values (2, 'calm')")
    writer.execute("update document set mood = 'calm' where id = 10")
    writer.execute("update document set mood = 'calm' where id in (2, 11)")
    assert trail(document, "resource_id, before->>'mood', after->>'mood'")[4:] == [
        ("2", None, "calm"),
        ("10", "glad", "calm"),
        ("11", "glad", "calm"),
    ]


def test_an_enum_made_and_changed_in_one_transaction_with_writes(document: Connection) -> None:
    document.execute("begin; create type size as enum ('s', 'm')")
    document.execute("alter table document add size size default 'm'; insert into document (id, few) values (1, 3)")
    document.execute("alter type size rename value 'm' to 'medium'; update document set few = 4")
    document.execute("delete from document; commit")
    assert trail(document, "operation, coalesce(before, after) - '{workspace_id,mood,moods,place,span}'::text[]") == [
        ("INSERT", {"id": 1, "few": 3, "size": "m"}),
        ("UPDATE", {"few": 3}),
        ("DELETE", {"id": 1, "few": 4, "size": "medium"}),
    ]


def test_a_composites_new_attribute_is_in_the_log_where_no_table_forbids_it(
    document: Connection, writer: Connection
) -> None:
    # The server refuses to add an attribute while a column has the type: a migration takes a new one.
    document.execute("create type place_2 as (street text, number integer, town text)")
    document.execute(
        "alter table document alter place type place_2 using row((place).street, (place).number, 'Ely')::place_2"
    )
    document.execute("drop type place; alter type place_2 rename to place")
    writer.execute("update document set place = row('Side', 2, 'Rye') where id = 10")
    assert trail(document, "resource_id, before, after")[4:] == [
        ("10", {"place": "(Main,1,Ely)"}, {"place": "(Side,2,Rye)"})
    ]


@pytest.mark.parametrize(
    ("ddl", "dropped"),
    [
        ("drop type mood cascade", ["mood", "moods"]),
        ("drop domain few cascade; drop type span cascade", ["few", "span"]),
        ("alter table document drop mood, drop moods; drop type mood", ["mood", "moods"]),
    ],
)
def test_columns_that_go_with_their_type_are_captured_no_more(
    document: Connection, writer: Connection, ddl: str, dropped: list[str]
) -> None:
    document.execute(ddl.encode())
    writer.execute("insert into document (id, workspace_id, place) values (2, 'acme', '(Main,1)')")
    writer.execute("update document set place = null where id = 10")
    row = {"id": 2, "workspace_id": "acme", "mood": None, "moods": None, "place": "(Main,1)", "few": None, "span": None}
    assert trail(document, "resource_id, before, after")[4:] == [
        ("2", None, {name: value for name, value in row.items() if name not in dropped}),
        ("10", {"place": "(Main,1)"}, {"place": None}),
    ]


def test_a_type_that_is_dropped_is_recorded_as_the_columns_it_took_along(db: Connection) -> None:
    db.execute("create type mood as enum ('sad', 'glad')")
    db.execute("create table document (id integer primary key, workspace_id text, mood mood, moods mood[])")
    db.execute("select audit.enable_tracking('document')")
    db.execute("drop type mood cascade")
    assert own_events(db, "event, context->'details'->>'command', context->'details'->'dropped_columns'")[1:] == [
        ("table_altered", "DROP TYPE", ["mood", "moods"])
    ]
    assert count(db, "select count(*) from audit.check() where problem = 'function_stale'") == 0


def test_what_only_renames_a_type_is_no_alteration_of_the_table(document: Connection) -> None:
    document.execute("alter type mood rename to temper; alter type temper rename value 'sad' to 'blue'")
    document.execute("alter type temper add value 'calm'")
    document.execute("alter domain few drop constraint is_small; alter type place rename attribute number to no")
    document.execute("alter type place set schema other")
    assert own_events(document)[1:] == []
    assert count(document, "select count(*) from audit.check() where problem = 'function_stale'") == 0
