"""The index of the open days: lists find through it what they would find by reading, wherever it begins and ends."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import count as numbers
from typing import Any, NamedTuple

import msgspec
import psycopg
import pytest
from psycopg.types.json import Jsonb

from daybook import upkeep
from daybook.database import connect
from daybook.upkeep import maintain

from .conftest import Database
from .reading import AS_ADMIN, Client, add_changes, add_entry, add_keys, opened, today
from .test_counts import WORKSPACE, count_until
from .test_upkeep_kills import Watch
from .upkeep import close_days, index_differs, settle

Connection = psycopg.Connection[Any]
EXPORT = "/api/v1/notification/export.ndjson"
FACETS = "/api/v1/notification/facets/"
EVENTS = ["resource_updated"] * 6 + ["resource_created", "permission_granted", "log_viewed"]
WORDS = ["revenue", "margin", "churn", "forecast"]
# Entries of the day before the open one, and of the open one, which is yesterday.
MANY = (40, 260)


class Entry(NamedTuple):
    id: str
    created_at: datetime
    workspace_id: str
    event: str
    resource_type: str
    actor_id: str
    request_id: str | None
    resource_id: str
    words: set[str]
    rows: list[set[str]]


def make_log(db: Connection) -> list[Entry]:
    """Entries with words of their own and in their rows, some at one moment; newest first."""
    draw = random.Random(7)
    entries = []
    for days_ago, many in zip((2, 1), MANY, strict=True):
        for number in range(many):
            moment = today(hours=-24 * days_ago) + timedelta(minutes=draw.choice([draw.randrange(1440), 333]))
            words, rows = draw.sample(WORDS, draw.randrange(3)), []
            columns: dict[str, Any] = {
                "workspace_id": draw.choice(["acme", "acme", "acme", "globex"]),
                "event": draw.choice(EVENTS),
                "resource_type": draw.choice(["document", "document", "dashboard"]),
                "actor_id": draw.choice(["1", "2", "2"]),
                "request_id": draw.choice([None, "r-1", "r-2"]),
                "resource_id": str(number % 20),
            }
            if number % 9 == 0:
                rows = [set(draw.sample(WORDS, draw.randrange(3))) for _ in range(3)]
                # More rows than are indexed at once, by what the entry says.
                columns["row_count"] = 3_000_000 if number % 27 == 0 else 3
            name = " ".join(words)
            entry_id = add_entry(db, moment, resource_name=name, actor_name="Ada", **columns)
            for row in rows:
                db.execute(
                    "insert into audit.change (entry_id, created_at, workspace_id, after) values (%s, %s, %s, %s)",
                    [entry_id, moment, columns["workspace_id"], Jsonb({"note": " ".join(row)})],
                )
            columns.pop("row_count", None)
            entries.append(Entry(entry_id, moment, **columns, words=set(words), rows=rows))
    return sorted(entries, key=lambda entry: (entry.created_at, entry.id), reverse=True)


def nothing_indexed(db: Connection) -> None:
    """Upkeep never ran."""


def indexed_in_part(db: Connection) -> None:
    count_until(db, today(hours=-24))
    assert len(close_days(db)) == 1
    for hours in (-20, -16, -13.5):
        count_until(db, today(hours=hours))
    assert border(db) == (today(hours=-24), today(hours=-13.5))


def indexed_from_the_middle(db: Connection) -> None:
    """Values that no index holds left the first part out."""
    indexed_in_part(db)
    db.execute("select audit.forget_indexed(%s)", [today(hours=-18)])
    assert border(db) == (today(hours=-18), today(hours=-13.5))


def indexed_whole(db: Connection) -> None:
    indexed_in_part(db)
    for minutes in (-600, -30, 0):
        count_until(db, today(minutes=minutes))
    assert border(db) == (today(hours=-24), today())


def closed(db: Connection) -> None:
    indexed_whole(db)
    assert len(close_days(db)) == 1
    assert border(db) == (today(), today())
    assert db.execute("select (select count(*) from audit.open_entry), count(*) from audit.open_words").fetchone() == (
        0,
        0,
    )


def border(db: Connection) -> Any:
    return db.execute("select indexed_from, counted_until from audit.watermark").fetchone()


STATES = [nothing_indexed, indexed_in_part, indexed_from_the_middle, indexed_whole, closed]


@pytest.fixture(params=STATES, ids=lambda state: state.__name__)
def log(request: pytest.FixtureRequest, database: Database, db: Connection) -> Iterator[tuple[Client, list[Entry]]]:
    entries = make_log(db)
    request.param(db)
    assert index_differs(db) == 0
    add_keys(db)
    # Reading is noted beforehand: the entry that it leaves is no part of the model.
    db.execute(
        "insert into audit.reading (workspace_id, reader_id, last_used_at, viewed_on)"
        " select workspace_id, prefix, now() + interval '1 hour', audit.utc_day(now()) from audit.api_key"
    )
    with opened(database) as api:
        yield api, entries


FILTERS: list[dict[str, str]] = [
    {"event": "resource_created"},
    {"event": "resource_created,permission_granted"},
    {"event": "permission_*,log_viewed"},
    {"performer_id": "1"},
    {"resource_type": "dashboard"},
    {"request_id": "r-1"},
    {"request_id": "r-1", "performer_id": "2", "event": "resource_updated"},
    {"request_id": "r-1", "resource_id": "7"},
    {"performer_id": "1", "event": "resource_updated", "resource_type": "document"},
    {"request_id": "nothing"},
    {"q": "revenue"},
    {"q": "churn margin"},
    {"q": "Forecast", "performer_id": "1", "event": "resource_updated"},
    {"q": "quagga"},
]
BOUNDS: list[tuple[datetime | None, datetime | None]] = [
    (None, None),
    (today(hours=-21, minutes=20), today(hours=-9)),
    (today(hours=-14), None),
    (None, today(hours=-24 + 5, minutes=33)),
]


def meets(entry: Entry, given: dict[str, str], after: datetime | None, before: datetime | None) -> bool:
    events = given.get("event", "*").split(",")
    words = set(given.get("q", "").lower().split())
    return (
        entry.workspace_id == "acme"
        and (not after or entry.created_at >= after)
        and (not before or entry.created_at < before)
        and any(entry.event == event or (event[-1] == "*" and entry.event.startswith(event[:-1])) for event in events)
        and (not entry.event.startswith("log_") or any(event.startswith("log_") for event in events))
        and all(getattr(entry, name) == given.get(parameter, getattr(entry, name)) for name, parameter in SAME.items())
        and any(words <= held for held in (entry.words, *entry.rows))
    )


SAME = {
    "actor_id": "performer_id",
    "resource_type": "resource_type",
    "request_id": "request_id",
    "resource_id": "resource_id",
}


def test_lists_exports_and_cursors_find_what_the_model_finds(log: tuple[Client, list[Entry]], db: Connection) -> None:
    """One log for all three: it takes longer to make than to ask."""
    api, entries = log
    [[final]] = db.execute("select coalesce(max(moment), '1970-01-01') from audit.watermark").fetchall()
    for number, given in enumerate(FILTERS):
        for after, before in (BOUNDS[0], BOUNDS[1 + number % 3]):
            bounds = {"created_after": after, "created_before": before}
            asked = given | {name: moment.isoformat() for name, moment in bounds.items() if moment}
            compare_pages(api, asked, [entry.id for entry in entries if meets(entry, given, after, before)])
        expected = [entry for entry in entries if meets(entry, given, None, None)]
        lines = api.get(EXPORT, params=given, headers=AS_ADMIN).text.splitlines()
        assert [msgspec.json.decode(line).get("id") for line in lines] == [*(entry.id for entry in expected), None], (
            given
        )
        assert walk(api, given) == [entry.id for entry in reversed(expected) if entry.created_at < final], given


def compare_pages(api: Client, asked: dict[str, str], expected: list[str]) -> None:
    pages = max(1, -(-len(expected) // 10))
    for page in {"1", str(min(2, pages)), "last"}:
        answer = api.get(WORKSPACE, params={**asked, "page": page, "page_size": "10"}, headers=AS_ADMIN).json()
        first = (pages if page == "last" else int(page)) * 10 - 10
        assert answer["count"] == len(expected), asked
        assert [row["id"] for row in answer["results"]] == expected[first : first + 10], asked


def walk(api: Client, given: dict[str, str]) -> list[str]:
    """What a cursor comes by, six at a time: fewer than some moments have entries."""
    found, body = [], api.get(WORKSPACE, params={**given, "cursor": "", "page_size": "6"}, headers=AS_ADMIN).json()
    while True:
        found += [row["id"] for row in body["results"]]
        if body["next"] is None:
            return found
        body = api.get(body["next"], headers=AS_ADMIN).json()


@pytest.fixture
def reader(database: Database, db: Connection) -> Iterator[Connection]:
    """A snapshot of the app's, opened before the test acts."""
    make_log(db)
    indexed_whole(db)
    with database.connect("reader", autocommit=False) as connection:
        connection.execute("begin isolation level repeatable read")
        connection.execute("set local role audit_reader; set local audit.reader_workspace = 'acme'")
        yield connection


def test_a_reader_of_an_older_snapshot_loses_nothing_when_a_day_is_closed(reader: Connection, db: Connection) -> None:
    bounds = "select indexed_from, counted_until from audit.reading_bounds()"
    held = "select count(*) from audit.open_entry where request_id = 'r-1'"
    found = "select count(*) from audit.search('revenue', '-infinity', 'infinity')"
    before = [reader.execute(query).fetchone() for query in (bounds, held, found)]
    assert len(close_days(db)) == 1
    assert border(db) == (today(), today())
    assert [reader.execute(query).fetchone() for query in (bounds, held, found)] == before
    assert before[1] != (0,)


def test_a_reader_sees_of_the_index_his_workspace_alone(reader: Connection) -> None:
    assert reader.execute("select distinct workspace_id from audit.open_entry").fetchall() == [("acme",)]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        reader.execute("select from audit.open_words")


def test_days_that_are_closed_next_are_not_indexed(db: Connection) -> None:
    make_log(db)
    count_until(db, today())
    assert border(db) == (today(), today())
    assert db.execute("select count(*) from audit.open_words").fetchone() == (0,)
    assert index_differs(db) == 0


def test_a_value_that_no_index_holds_is_read(db: Connection, database: Database) -> None:
    long = db.execute("select string_agg(md5(n::text), '') from generate_series(1, 100) n").fetchone()
    assert long is not None
    add_keys(db)
    add_entry(db, today(hours=-9), resource_type=long[0], request_id="r-9")
    after = add_entry(db, today(hours=-7), request_id="r-9")
    count_until(db, today(hours=-24))
    for hours in (-8, -6):
        count_until(db, today(hours=hours))
    assert border(db) == (today(hours=-8), today(hours=-6))
    assert db.execute("select id::text from audit.open_entry").fetchall() == [(after,)]
    with opened(database) as api:
        found = api.get(WORKSPACE, params={"request_id": "r-9"}, headers=AS_ADMIN).json()
        assert (found["count"], len(found["results"])) == (2, 2)


def test_rows_of_bulk_entries_are_indexed_up_to_a_number_and_else_read(db: Connection, database: Database) -> None:
    add_keys(db)
    small = add_entry(db, today(hours=-2), resource_id=None, row_count=3)
    large = add_entry(db, today(hours=-2), resource_id=None, row_count=20_000)
    for entry_id in (small, large):
        add_changes(db, entry_id, range(3))
    for hours in (-24, -2.5, -1.5):
        count_until(db, today(hours=hours))
    kept = "select id::text, words is null, count(*) from audit.open_words group by 1, 2 order by 1, 2"
    assert sorted(db.execute(kept).fetchall()) == sorted([(small, False, 4), (large, False, 1), (large, True, 1)])
    with opened(database) as api:
        found = api.get(WORKSPACE, params={"q": "Document 2"}, headers=AS_ADMIN).json()
        assert {row["id"] for row in found["results"]} == {small, large}
        assert found["count"] == 2


def test_hours_of_the_open_day_are_counted_as_it_goes(db: Connection) -> None:
    make_log(db)
    indexed_in_part(db)
    of_day = "select sum(entries) from audit.activity_total where part = %s and starts_at >= %s"
    for part in ("day", "day_actor"):
        day = db.execute(of_day, [part, today(hours=-24)]).fetchone()
        assert day == db.execute(of_day, [part.replace("day", "hour"), today(hours=-24)]).fetchone()
        assert day not in ((None,), (0,))


def test_a_recount_empties_the_index_too(db: Connection) -> None:
    make_log(db)
    indexed_in_part(db)
    db.execute("select audit.recount()")
    assert border(db) == (None, None)
    assert index_differs(db) == 0
    count_until(db, today(hours=-13))
    assert index_differs(db) == 0


def test_counting_killed_before_it_is_committed_leaves_counts_and_index_at_one_border(
    db: Connection, database: Database
) -> None:
    make_log(db)
    indexed_in_part(db)
    db.execute("update audit.watermark set moment = %s", [today(hours=-10)])
    killed = database.connect("maintainer", autocommit=False)
    assert killed.execute("select audit.advance_counts()").fetchone() == (today(hours=-10),)
    db.execute("select pg_terminate_backend(%s, 10000)", [killed.info.backend_pid])
    assert border(db) == (today(hours=-24), today(hours=-13.5))
    assert index_differs(db) == 0
    count_until(db, today(hours=-10))
    assert border(db) == (today(hours=-24), today(hours=-10))
    assert index_differs(db) == 0


def test_upkeep_killed_before_any_statement_leaves_the_index_exact(
    db: Connection, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_log(db)
    indexed_in_part(db)
    db.execute("create table document (id bigint generated always as identity primary key, workspace_id text)")
    db.execute("select audit.enable_tracking('document')")
    for number in numbers(1):
        db.execute("insert into document (workspace_id) values ('acme')")
        Watch(database, monkeypatch, kill_before=number)
        try:
            assert maintain(database.url("maintainer")).problem is None
            break
        except psycopg.OperationalError:
            monkeypatch.setattr(upkeep, "connect", connect)
        assert index_differs(db) == 0
    assert number > 15
    monkeypatch.setattr(upkeep, "connect", connect)
    settle(db)
    assert index_differs(db) == 0
    assert close_days(db) == []
    assert border(db)[0] == today()
