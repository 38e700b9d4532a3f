"""Counts and pages: the same as if every entry were counted, wherever the counts end and whatever is closed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
import pytest

from .conftest import Database
from .reading import ADMIN, AS_ADMIN, AS_STRANGER, Client, add_keys, opened, today
from .upkeep import close_days, count_all

Connection = psycopg.Connection[Any]
WORKSPACE = "/api/v1/notification/workspace/"
FACETS = "/api/v1/notification/facets/"
EVENTS = ["resource_updated"] * 12 + ["permission_granted"] * 3 + ["documentation_updated", "log_viewed"]


class Entry(NamedTuple):
    created_at: datetime
    id: UUID
    workspace_id: str
    event: str
    resource_type: str
    actor_id: str


def make_log(db: Connection, seed: int, a_day: Sequence[int] = (900, 30, 700, 0, 1, 250)) -> list[Entry]:
    """Fill the days before today with so many entries each, the oldest first; return them, newest first."""
    draw = random.Random(seed)
    entries = []
    for number, many in enumerate(a_day):
        day = today(hours=-24 * (len(a_day) - number))
        db.execute("select audit.create_day(audit.utc_day(%s))", [day])
        for _ in range(many):
            moment = day + timedelta(microseconds=draw.choice([draw.randrange(86_400_000_000), 3_600_000_000]))
            microseconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
            carried = microseconds // 1000 << 80 | 7 << 76 | microseconds % 1000 << 64
            entries.append(
                Entry(
                    moment,
                    UUID(int=carried | 1 << 63 | draw.getrandbits(62)),
                    draw.choice(["acme", "acme", "acme", "globex"]),
                    draw.choice(EVENTS),
                    draw.choice(["document", "document", "dashboard"]),
                    draw.choice(["42", "43", "system"]),
                )
            )
    with db.cursor().copy(
        "copy audit.entry (created_at, id, workspace_id, event, resource_type, actor_id, actor_name, actor_type,"
        " operation, row_count, database_user, transaction_id) from stdin"
    ) as copy:
        for entry in entries:
            copy.write_row((*entry, f"Name of {entry.actor_id}", "user", "UPDATE", 1, "app", "1"))
    return sorted(entries, reverse=True)


def uncounted(db: Connection) -> None:
    """No upkeep has run."""


def counted_in_part(db: Connection) -> None:
    """The counts end in the middle of a day with many entries."""
    count_until(db, today(hours=-24 * 4 + 13, minutes=7))


def counted(db: Connection) -> None:
    count_until(db, today(hours=-1, minutes=59))


def closed(db: Connection) -> None:
    count_until(db, today())
    assert len(close_days(db)) == 6


def closed_in_part(db: Connection) -> None:
    count_until(db, today(hours=-24 * 3))
    assert len(close_days(db)) == 3
    count_until(db, today(hours=-24 + 1, seconds=1))


def count_until(db: Connection, moment: datetime) -> None:
    db.execute(
        "insert into audit.watermark (moment) values (%s)"
        " on conflict (only_row) do update set moment = excluded.moment",
        [moment],
    )
    count_all(db)


def counted_piece_by_piece(db: Connection) -> None:
    """As a service does: hours of a day that goes on are counted, too, up to where the counts end."""
    count_until(db, today(hours=-24 * 4))
    for hours in (-23, -12, -9.5, -0.25, 0, 5, 23.5):
        count_until(db, today(hours=-24 * 3 + hours))


STATES = [uncounted, counted_piece_by_piece, counted_in_part, counted, closed_in_part, closed]
FILTERS: list[tuple[dict[str, str], Callable[[Entry], bool]]] = [
    ({}, lambda entry: entry.event != "log_viewed"),
    ({"event": "documentation_updated"}, lambda entry: entry.event == "documentation_updated"),
    ({"event": "permission_*,log_viewed"}, lambda entry: entry.event in ("permission_granted", "log_viewed")),
    ({"event": "nothing_done"}, lambda _: False),
    ({"resource_type": "dashboard"}, lambda entry: entry.resource_type == "dashboard" and entry.event != "log_viewed"),
    ({"performer_id": "43"}, lambda entry: entry.actor_id == "43" and entry.event != "log_viewed"),
    (
        {"performer_id": "system", "event": "resource_updated", "resource_type": "document"},
        lambda entry: entry[3:] == ("resource_updated", "document", "system"),
    ),
]


@pytest.fixture(params=STATES, ids=lambda state: state.__name__)
def log(request: pytest.FixtureRequest, database: Database, db: Connection) -> Iterator[tuple[Client, list[Entry]]]:
    entries = make_log(db, seed=STATES.index(request.param))
    request.param(db)
    add_keys(db)
    # Reading is noted beforehand: the entry that it leaves is no part of the model.
    db.execute(
        "insert into audit.reading (workspace_id, reader_id, last_used_at, viewed_on)"
        " select workspace_id, prefix, now() + interval '1 hour', audit.utc_day(now()) from audit.api_key"
    )
    with opened(database) as api:
        yield api, entries


def bounds_of(draw: random.Random) -> dict[str, str]:
    """A random stretch of time: days, a lower and an upper end, any of them missing."""
    moments = [today(minutes=-draw.randrange(8 * 24 * 60), seconds=draw.choice([0, 31])) for _ in range(2)]
    moments += [today(hours=-24 * draw.randrange(7)), today(hours=-draw.randrange(100))]
    given = {
        "days": str(draw.choice([1, 2, 3, 6, 90])),
        "created_after": draw.choice(moments).isoformat(),
        "created_before": draw.choice(moments).isoformat(),
    }
    return {name: value for name, value in given.items() if draw.random() < 0.5}


def is_within(moment: datetime, bounds: dict[str, str]) -> bool:
    after = datetime.fromisoformat(bounds["created_after"]) if "created_after" in bounds else moment
    before = datetime.fromisoformat(bounds["created_before"]) if "created_before" in bounds else datetime.max
    if "days" in bounds:
        after = max(after, datetime.now(UTC) - timedelta(days=int(bounds["days"])))
    return after <= moment < before.replace(tzinfo=UTC)


def test_lists_and_facets_are_those_of_the_model(log: tuple[Client, list[Entry]]) -> None:
    """One log for all three: it takes longer to make than to ask."""
    compare_lists(*log)
    compare_facets(*log)
    compare_workspaces(*log)


def compare_lists(api: Client, entries: list[Entry]) -> None:
    draw = random.Random(5)
    for number in range(60):
        parameters, meets = FILTERS[number % len(FILTERS)]
        bounds = bounds_of(draw) if number >= len(FILTERS) else {}
        expected = [
            str(entry.id)
            for entry in entries
            if entry.workspace_id == "acme" and meets(entry) and is_within(entry.created_at, bounds)
        ]
        size = draw.choice([7, 50, 1000])
        pages = max(1, -(-len(expected) // size))
        for page in (1, 2, draw.randrange(1, pages + 1), pages, None):
            given = {**parameters, **bounds, "page": str(page or "last"), "page_size": str(size)}
            answer = api.get(WORKSPACE, params=given, headers=AS_ADMIN)
            if page == 2 and pages == 1:
                assert answer.status_code == 404
                continue
            first = ((page or pages) - 1) * size
            body = answer.json()
            assert (body["count"], body["total_pages"]) == (len(expected), pages), given
            assert [row["id"] for row in body["results"]] == expected[first : first + size], given


def compare_facets(api: Client, entries: list[Entry]) -> None:
    draw = random.Random(6)
    for number in range(20):
        parameters, meets = FILTERS[number % len(FILTERS)]
        bounds = bounds_of(draw) if number >= len(FILTERS) else {}
        expected = [
            entry
            for entry in entries
            if entry.workspace_id == "acme" and meets(entry) and is_within(entry.created_at, bounds)
        ]
        body = api.get(FACETS, params={**parameters, **bounds}, headers=AS_ADMIN).json()
        assert list(body) == ["count", "events", "resource_types", "performers", "days"]
        assert body["count"] == len(expected)
        assert {row["event"]: row["count"] for row in body["events"]} == numbers(entry.event for entry in expected)
        assert {row["resource_type"]: row["count"] for row in body["resource_types"]} == numbers(
            entry.resource_type for entry in expected
        )
        performers = numbers(entry.actor_id for entry in expected)
        if not parameters:
            # What reading leaves is no part of a list that does not name it.
            assert "log_viewed" not in {row["event"] for row in body["events"]}
        assert {row["id"]: row["count"] for row in body["performers"]} == performers
        assert {row["name"] for row in body["performers"]} == {f"Name of {actor}" for actor in performers}
        assert {row["day"]: row["count"] for row in body["days"]} == numbers(
            entry.created_at.date().isoformat() for entry in expected
        )
        assert [row["day"] for row in body["days"]] == sorted(row["day"] for row in body["days"])
        counts = [row["count"] for row in body["events"]]
        assert counts == sorted(counts, reverse=True)


def numbers(values: Iterator[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for value in values:
        found[value] = found.get(value, 0) + 1
    return found


def compare_workspaces(api: Client, entries: list[Entry]) -> None:
    for headers, workspace in ((AS_ADMIN, "acme"), (AS_STRANGER, "globex")):
        own = [entry for entry in entries if entry.workspace_id == workspace and entry.event != "log_viewed"]
        assert api.get(WORKSPACE, headers=headers).json()["count"] == len(own)
        assert api.get(FACETS, headers=headers).json()["count"] == len(own)


def test_daily_activity_says_who_did_how_much(db: Connection) -> None:
    db.execute("create table document (id integer primary key, workspace_id text)")
    db.execute("select audit.enable_tracking('document')")
    for actor in ("42", "43", "42"):
        with db.transaction():
            db.execute("select audit.set_actor(%s, 'Name of ' || %s)", [actor, actor])
            db.execute("insert into document select (random() * 1e9)::integer, 'acme' from generate_series(1, 3)")
    before = db.execute("select created_at from audit.entry order by 1 desc limit 1").fetchone()
    assert before is not None
    count_until(db, before[0] + timedelta(seconds=1))
    found = db.execute(
        "select event, resource_type, actor_type, actor_id, actor_name, entries, changed_rows from audit.daily_activity"
        " where workspace_id = 'acme' order by actor_id"
    ).fetchall()
    assert found == [
        ("resource_created", "document", "user", "42", "Name of 42", 2, 6),
        ("resource_created", "document", "user", "43", "Name of 43", 1, 3),
    ]


def test_counting_goes_on_where_it_ended_and_once(db: Connection) -> None:
    entries = make_log(db, seed=1, a_day=(40, 40))
    for hours in (-30, -30, -24, -7, 0):
        count_until(db, today(hours=hours))
        counted = db.execute("select coalesce(sum(entries), 0) from audit.daily_activity").fetchone()
        assert counted == (sum(entry.created_at < today(hours=hours) for entry in entries),)


def test_a_stretch_that_is_too_short_waits_unless_its_day_is_over(db: Connection) -> None:
    make_log(db, seed=1, a_day=(5,))
    count_until(db, today(hours=-2))
    db.execute("update audit.watermark set moment = %s", [today(hours=-1.5)])
    for at_least, until in (("1 hour", -2), ("30 minutes", -1.5)):
        db.execute("select audit.advance_counts(%s)", [at_least])
        assert db.execute("select counted_until from audit.watermark").fetchone() == (today(hours=until),)
    db.execute("update audit.watermark set moment = %s", [today(seconds=1)])
    db.execute("select audit.advance_counts('1 day')")
    assert db.execute("select counted_until from audit.watermark").fetchone() == (today(),)


def test_a_recount_begins_anew(database: Database, db: Connection) -> None:
    add_keys(db)
    entries = make_log(db, seed=1, a_day=(30,))
    count_until(db, today())
    db.execute("set session_replication_role = replica")
    db.execute("delete from audit.entry where id = %s", [entries[0].id])
    db.execute("select audit.recount()")
    with opened(database) as api:
        left = sum(entry.workspace_id == "acme" and entry.event != "log_viewed" for entry in entries[1:])
        for _ in range(2):
            assert api.get(WORKSPACE, headers={"Authorization": f"Bearer {ADMIN}"}).json()["count"] == left
            count_all(db)
