"""Which partitions and indexes a request touches: never more days than it needs, and never a day read through.

The statements are those that the app itself sends, taken down at the driver and explained.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg import AsyncCursor

from .conftest import Database
from .reading import AS_ADMIN, Client, add_changes, add_entry, add_keys, opened, today
from .test_counts import WORKSPACE, count_until, make_log
from .upkeep import close_days

Connection = psycopg.Connection[Any]
RESOURCE = "/api/v1/notification/resource/"
ENTRY = "/api/v1/notification/entry/"
DAYS = 5


class Seen:
    """What the app sent, and what the server would do with it."""

    def __init__(self, db: Connection) -> None:
        self.db = db
        self.statements: list[tuple[bytes, Any]] = []

    def plans(self) -> list[dict[str, Any]]:
        """The plans of all statements on the log, made as the reader whose transaction they were."""
        found = []
        with self.db.transaction(force_rollback=True):
            self.db.execute("set local role audit_reader; set local audit.reader_workspace = 'acme'")
            # What a plan is for: a small table is read through by right.
            self.db.execute("set local enable_seqscan = off")
            for query, values in self.statements:
                if b"audit.timeline" in query:
                    row = self.db.execute(b"explain (format json) " + query, values).fetchone()
                    assert row is not None
                    found.append(row[0][0]["Plan"])
        return found

    def partitions(self) -> set[str]:
        """The day partitions that any of the plans reads, by their day's distance from today."""
        return {node["Relation Name"] for plan in self.plans() for node in nodes(plan) if "Relation Name" in node}

    def indexes(self) -> set[str]:
        """The indexes that the plans use on days before today: what is behind the day in their names."""
        names = {node["Index Name"] for plan in self.plans() for node in nodes(plan) if "Index Name" in node}
        return {name.split("_", 2)[2] for name in names if f"{today():%Y%m%d}" > name.split("_")[1]}


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", []):
        yield from nodes(below)


def day(ago: int, log_table: str = "entry") -> str:
    return f"{log_table}_{today(hours=-24 * ago):%Y%m%d}"


@pytest.fixture
def log(database: Database, db: Connection, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Client, Seen]]:
    make_log(db, seed=3, a_day=(120, 60, 900, 80, 100))
    bulk = add_entry(db, today(hours=-60), resource_id=None, row_count=30)
    add_changes(db, bulk, range(30))
    count_until(db, today())
    close_days(db)
    db.execute("analyze")
    add_keys(db)
    yield from watched(database, db, monkeypatch)


def watched(database: Database, db: Connection, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Client, Seen]]:
    """A client of the app, and what the app sends for it."""
    execute = AsyncCursor.execute
    seen = Seen(db)

    async def executed(self: Any, query: Any, parameters: Any = None, **options: Any) -> Any:
        seen.statements.append((query, parameters))
        return await execute(self, query, parameters, **options)

    with opened(database) as api:
        api.get(WORKSPACE, headers=AS_ADMIN)
        monkeypatch.setattr(AsyncCursor, "execute", executed)
        yield api, seen


def test_the_first_page_reads_the_days_that_hold_it(log: tuple[Client, Seen]) -> None:
    api, seen = log
    body = api.get(WORKSPACE, params={"page_size": "20"}, headers=AS_ADMIN).json()
    assert len(body["results"]) == 20
    # Today and what a clock that steps back may have left for tomorrow are counted by reading them.
    assert seen.partitions() == {day(-1), day(0), day(1)}


@pytest.mark.parametrize("page", [20, 30])
def test_a_deep_page_goes_to_its_day(log: tuple[Client, Seen], page: int) -> None:
    api, seen = log
    created_before = today().isoformat()
    parameters = {"page_size": "20", "page": str(page), "created_before": created_before}
    body = api.get(WORKSPACE, params=parameters, headers=AS_ADMIN).json()
    assert {row["created_at"][:10] for row in body["results"]} == {f"{today(hours=-72):%Y-%m-%d}"}
    assert seen.partitions() == {day(3)}


def test_the_last_page_goes_to_the_oldest_day(log: tuple[Client, Seen]) -> None:
    api, seen = log
    parameters = {"page_size": "20", "page": "last", "created_before": today().isoformat()}
    assert api.get(WORKSPACE, params=parameters, headers=AS_ADMIN).status_code == 200
    assert seen.partitions() == {day(5)}


@pytest.mark.parametrize(
    "parameters", [{"event": "documentation_updated"}, {"performer_id": "43"}, {"resource_type": "dashboard"}]
)
def test_a_filter_reads_a_closed_day_by_index(log: tuple[Client, Seen], parameters: dict[str, str]) -> None:
    api, seen = log
    bounds = {"created_after": today(hours=-24).isoformat(), "created_before": today().isoformat()}
    assert api.get(WORKSPACE, params={**parameters, **bounds}, headers=AS_ADMIN).status_code == 200
    assert seen.partitions() == {day(1)}
    assert seen.indexes()
    assert seen.indexes() <= {"event", "actor", "type", "workspace_id_created_at_id_idx"}


@pytest.mark.parametrize(
    ("clause", "index"),
    [
        ("workspace_id = 'acme' and event = 'documentation_updated'", "event"),
        ("workspace_id = 'acme' and resource_type = 'dashboard'", "type"),
        ("workspace_id = 'acme' and actor_id = '43'", "actor"),
        ("request_id = 'r-1'", "request"),
        ("row_key = '7'", "row"),
        ("audit.entry_words(resource_name, actor_name, before, after) @@ 'revenue'::tsquery", "words"),
    ],
)
def test_a_closed_day_has_an_index_for_each_question(db: Connection, clause: str, index: str) -> None:
    # Each value is rare among many.
    db.execute("select audit.create_day(audit.utc_day(%s))", [today(hours=-24)])
    db.execute(
        """
        insert into audit.entry (created_at, id, workspace_id, event, operation, resource_type, resource_name, row_key,
                                 actor_type, actor_id, actor_name, row_count, request_id, database_user, transaction_id)
        select %s + n * interval '1 second', gen_random_uuid(), 'acme', 'event_' || n, 'UPDATE', 'type ' || n,
               'Name ' || n, n::text, 'user', n::text, 'Ada', 1, 'r-' || n, 'app', '1'
        from generate_series(1, 3000) n""",
        [today(hours=-24)],
    )
    count_until(db, today())
    close_days(db)
    db.execute(f"analyze audit.{day(1)}".encode())
    bounds = "created_at >= %s and created_at < %s"
    query = f"explain (format json) select count(*) from audit.entry where {bounds} and {clause}"
    row = db.execute(query.encode(), [today(hours=-24), today()]).fetchone()
    assert row is not None
    used = [node["Index Name"] for node in nodes(row[0][0]["Plan"]) if "Index Name" in node]
    assert used == [f"{day(1)}_{index}"]


def test_a_frozen_page_reads_nothing_past_its_watermark(log: tuple[Client, Seen]) -> None:
    api, seen = log
    api.get(WORKSPACE, params={"page_size": "20", "as_of": "now"}, headers=AS_ADMIN)
    assert seen.partitions() == {day(1)}


def test_a_cursors_step_reads_the_days_it_comes_by(log: tuple[Client, Seen]) -> None:
    api, seen = log
    step = api.get(WORKSPACE, params={"cursor": "", "page_size": "10"}, headers=AS_ADMIN).json()
    assert len(step["results"]) == 10
    assert seen.partitions() == {day(5)}


def test_an_entry_and_its_rows_touch_its_day_alone(log: tuple[Client, Seen], db: Connection) -> None:
    api, seen = log
    row = db.execute("select id::text from audit.entry where row_count = 30").fetchone()
    assert row is not None
    assert api.get(f"{ENTRY}{row[0]}/", headers=AS_ADMIN).status_code == 200
    assert seen.partitions() == {day(3), day(3, "change")}
    seen.statements.clear()
    assert api.get(f"{ENTRY}{row[0]}/changes/", params={"page": "2", "page_size": "20"}, headers=AS_ADMIN).json()
    assert seen.partitions() == {day(3), day(3, "change")}
    assert "entry" in seen.indexes()


def test_facets_read_the_edges_alone(log: tuple[Client, Seen]) -> None:
    api, seen = log
    bounds = {"created_after": today(hours=-24 * 4).isoformat(), "created_before": today().isoformat()}
    body = api.get("/api/v1/notification/facets/", params=bounds, headers=AS_ADMIN).json()
    assert len(body["days"]) == 4
    assert seen.partitions() == set()


def test_a_resource_is_looked_up_by_index_in_each_day(log: tuple[Client, Seen]) -> None:
    api, seen = log
    bounds = {"created_after": today(hours=-24 * 4).isoformat(), "created_before": today().isoformat()}
    assert api.get(RESOURCE, params={"resource_id": "7", **bounds}, headers=AS_ADMIN).json()["count"] == 1
    assert seen.partitions() == {day(ago, table) for ago in range(1, 5) for table in ("entry", "change")}
    assert seen.indexes() >= {"resource"}


@pytest.fixture
def open_log(database: Database, db: Connection, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Client, Seen]]:
    """The day before is closed, yesterday goes on and is counted up to an hour before its end."""
    make_log(db, seed=4, a_day=(60, 1500))
    count_until(db, today(hours=-24))
    assert len(close_days(db)) == 1
    for hours in (-18, -12, -6, -1):
        count_until(db, today(hours=hours))
    db.execute("analyze")
    add_keys(db)
    yield from watched(database, db, monkeypatch)


def names(seen: Seen) -> set[str]:
    """All indexes that the plans use on yesterday's entries and on the index beside them."""
    used = {node["Index Name"] for plan in seen.plans() for node in nodes(plan) if "Index Name" in node}
    return {name for name in used if name.startswith(("open_entry", day(1)))}


@pytest.mark.parametrize(
    ("parameters", "index"),
    [
        ({"event": "documentation_updated"}, "open_entry_by_event"),
        ({"performer_id": "43"}, "open_entry_by_actor"),
        ({"resource_type": "dashboard"}, "open_entry_by_type"),
        ({"request_id": "r-1"}, "open_entry_by_request"),
    ],
)
def test_a_filter_reads_the_open_day_by_the_index_beside_it(
    open_log: tuple[Client, Seen], parameters: dict[str, str], index: str
) -> None:
    api, seen = open_log
    # Within what is counted: all of it is in the index.
    bounds = {"created_after": today(hours=-24).isoformat(), "created_before": today(hours=-1).isoformat()}
    answer = api.get(WORKSPACE, params={**parameters, **bounds, "page_size": "5"}, headers=AS_ADMIN)
    assert answer.status_code == 200
    assert seen.partitions() == {"open_entry", day(1)}
    assert names(seen) == {index, f"{day(1)}_workspace_id_created_at_id_idx"}


def test_what_the_index_has_not_yet_is_read(open_log: tuple[Client, Seen]) -> None:
    api, seen = open_log
    parameters = {"request_id": "r-1", "created_after": today(hours=-48).isoformat()}
    assert api.get(WORKSPACE, params=parameters, headers=AS_ADMIN).json()["count"] == 0
    assert seen.partitions() == {"open_entry", day(-1), day(0), day(1), day(2)}


def test_a_deep_page_of_the_open_day_goes_to_its_hour(open_log: tuple[Client, Seen]) -> None:
    api, seen = open_log
    body = api.get(WORKSPACE, params={"page": "30", "page_size": "20"}, headers=AS_ADMIN).json()
    assert len(body["results"]) == 20
    [window] = [values for _, values in seen.statements if values and "limit" in values]
    assert window["upper"] - window["lower"] <= timedelta(hours=2)
    assert window["offset"] < 100
