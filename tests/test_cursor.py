"""Cursors and frozen walks: nothing is lost and nothing comes twice, whoever writes, commits late or drops days."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest

from .conftest import Database
from .reading import AS_ADMIN, AS_STRANGER, Client, add_entry, add_keys, opened, today
from .test_counts import WORKSPACE, count_until, make_log
from .upkeep import close_days, settle

Connection = psycopg.Connection[Any]
RESOURCE = "/api/v1/notification/resource/"


@pytest.fixture
def document(db: Connection) -> Connection:
    db.execute("create table document (id bigint generated always as identity primary key, workspace_id text)")
    db.execute("select audit.enable_tracking('document')")
    db.execute("grant all on document to app_user")
    add_keys(db)
    return db


@pytest.fixture
def api(database: Database, document: Connection) -> Iterator[Client]:
    with opened(database) as client:
        yield client


def get(api: Client, path: str = WORKSPACE, **parameters: object) -> Any:
    answer = api.get(path, params={name: str(value) for name, value in parameters.items()}, headers=AS_ADMIN)
    assert answer.status_code == 200, answer.text
    return answer.json()


def follow(api: Client, url: str | None) -> Iterator[Any]:
    """The answers from this address on, along their links."""
    while url:
        body = api.get(url, headers=AS_ADMIN).json()
        yield body
        url = body["next"]


def ids(body: Any) -> list[str]:
    return [row["id"] for row in body["results"]]


def kept(db: Connection, before: object = "infinity") -> list[str]:
    """The workspace's entries that lists show, oldest first."""
    query = (
        "select id::text from audit.entry where workspace_id = 'acme' and event not like 'log\\_%%'"
        " and created_at < %s order by created_at, id"
    )
    return [row[0] for row in db.execute(query.encode(), [before]).fetchall()]


def test_a_cursor_goes_forward_from_the_oldest_to_the_watermark(api: Client, document: Connection) -> None:
    for _ in range(5):
        document.execute("insert into document (workspace_id) values ('acme')")
    settle(document)
    first = get(api, cursor="", page_size=2)
    assert list(first) == ["count", "next", "previous", "results", "links", "meta", "total_pages"]
    assert (first["count"], first["previous"], first["total_pages"]) == (None, None, None)
    assert first["links"] == {"next": first["next"], "previous": None}
    assert (first["meta"]["page"], first["meta"]["next_page"], first["meta"]["previous_page"]) == (None, None, None)
    assert parse_qs(urlsplit(first["next"]).query) == {"cursor": [first["meta"]["cursor"]], "page_size": ["2"]}
    bodies = [first, *follow(api, first["next"])]
    assert [len(ids(body)) for body in bodies] == [2, 2, 1]
    assert [key for body in bodies for key in ids(body)] == kept(document)
    last = bodies[-1]
    assert last["next"] is None
    assert get(api, cursor=last["meta"]["cursor"])["results"] == []


def test_what_is_not_final_comes_later(api: Client, document: Connection, database: Database) -> None:
    with database.connect("app_user", autocommit=False) as late:
        late.execute("insert into document (workspace_id) values ('acme')")
        document.execute("insert into document (workspace_id) values ('acme')")
        document.execute("select audit.advance_watermark(), audit.advance_watermark()")
        early = get(api, cursor="")
        assert early["results"] == []
        assert len(get(api)["results"]) == 1
        late.commit()
    settle(document)
    assert ids(get(api, cursor=early["meta"]["cursor"])) == kept(document)
    assert len(kept(document)) == 2


def test_a_cursor_keeps_filters_and_days(api: Client, document: Connection) -> None:
    old = add_entry(document, today(hours=-50), resource_id="1")
    new = [add_entry(document, today(hours=-hours), resource_id="1") for hours in (20, 19)]
    add_entry(document, today(hours=-18), resource_id="2", event="resource_deleted")
    settle(document)
    assert ids(get(api, cursor="", event="resource_updated")) == [old, *new]
    assert ids(get(api, cursor="", days=2, event="resource_updated")) == new
    assert ids(get(api, RESOURCE, cursor="", resource_id="1", page_size=2)) == [old, new[0]]
    assert ids(get(api, cursor="", created_before=today(hours=-19.5).isoformat())) == [old, new[0]]
    assert ids(get(api, cursor="", expand="changes,context"))[0] == old


def test_a_cursor_reads_past_many_entries_of_one_moment(api: Client, document: Connection) -> None:
    moment = today(hours=-20)
    same = sorted(add_entry(document, moment) for _ in range(9))
    settle(document)
    close_days(document)
    bodies = list(follow(api, f"{WORKSPACE}?cursor=&page_size=2"))
    assert [key for body in bodies for key in ids(body)] == same


@pytest.mark.parametrize("cursor", ["x", "A" * 22, "é" * 22, "A" * 21 + "B", "A" * 4000])
def test_a_cursor_of_wrong_form_is_refused(api: Client, cursor: str) -> None:
    answer = api.get(WORKSPACE, params={"cursor": cursor}, headers=AS_ADMIN)
    assert answer.status_code == 400
    assert answer.json() == {"cursor": ["Give the cursor that an answer gave, or an empty one to begin with."]}


def test_a_cursor_beside_a_page_is_refused(api: Client) -> None:
    answer = api.get(WORKSPACE + "?cursor=&page=2&days=x", headers=AS_ADMIN)
    assert answer.status_code == 400
    assert answer.json() == {
        "days": ["A valid integer is required."],
        "cursor": ["Give either cursor or page."],
    }


def test_a_cursor_goes_on_after_a_restore_from_before_it(api: Client, document: Connection) -> None:
    document.execute("insert into document (workspace_id) values ('acme')")
    settle(document)
    cursor = get(api, cursor="")["meta"]["cursor"]
    # The other cluster's watermark is that of the dump.
    document.execute("update audit.watermark set moment = %s, noted = null", [today(hours=-1)])
    body = get(api, cursor=cursor)
    assert (body["results"], body["next"], body["meta"]["cursor"]) == ([], None, cursor)
    document.execute("insert into document (workspace_id) values ('acme')")
    settle(document)
    assert ids(get(api, cursor=cursor)) == kept(document)[1:]


def test_a_frozen_walk_shows_what_was_final_when_it_began(api: Client, document: Connection) -> None:
    for _ in range(5):
        document.execute("insert into document (workspace_id) values ('acme')")
    settle(document)
    frozen = kept(document)
    document.execute("insert into document (workspace_id) values ('acme')")
    first = get(api, as_of="now", page_size=2)
    assert (first["count"], first["total_pages"]) == (5, 3)
    document.execute("insert into document (workspace_id) values ('acme'), ('acme')")
    settle(document)
    rest = list(follow(api, first["next"]))
    assert [key for body in [first, *rest] for key in ids(body)] == frozen[::-1]
    # Back to the first page along the links, the same walk.
    assert ids(api.get(rest[0]["previous"], headers=AS_ADMIN).json()) == ids(first)
    assert rest[0]["count"] == 5


def test_a_frozen_walk_keeps_its_days(api: Client, document: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    border = add_entry(document, today(hours=-48, seconds=2))
    later = add_entry(document, today(hours=-20))
    settle(document)
    from daybook.positions import Frozen

    row = document.execute("select moment from audit.watermark").fetchone()
    assert row is not None
    # Asked for two days after the older of the two: now it is older than that.
    token = Frozen(row[0], today(seconds=1)).write("acme")
    assert ids(get(api, as_of=token, days=2)) == [later, border]
    if row[0] > today(seconds=3):
        assert ids(get(api, days=2)) == [later]


@pytest.mark.parametrize(
    "change", [lambda text: text[:-1] + ("A" if text[-1] != "A" else "B"), str.lower, lambda _: "x"]
)
def test_an_altered_walk_is_refused(api: Client, document: Connection, change: Any) -> None:
    document.execute("insert into document (workspace_id) values ('acme'), ('acme')")
    document.execute("insert into document (workspace_id) values ('acme')")
    settle(document)
    [token] = parse_qs(urlsplit(get(api, as_of="now", page_size=1)["next"]).query)["as_of"]
    answer = api.get(WORKSPACE, params={"as_of": change(token)}, headers=AS_ADMIN)
    assert answer.status_code == 400
    assert answer.json() == {"as_of": ["Give now, or what the next page of the walk gives."]}
    assert api.get(WORKSPACE, params={"as_of": token}, headers=AS_STRANGER).status_code == 400
    # One beyond what is final would not stay as it is.
    document.execute("update audit.watermark set moment = moment - interval '1 day'")
    assert api.get(WORKSPACE, params={"as_of": token}, headers=AS_ADMIN).status_code == 400


def test_before_the_first_upkeep_nothing_is_final(api: Client, document: Connection) -> None:
    document.execute("insert into document (workspace_id) values ('acme')")
    assert get(api, as_of="now")["count"] == 0
    body = get(api, cursor="")
    assert (body["results"], body["next"]) == ([], None)
    assert get(api)["count"] == 1


@pytest.mark.parametrize("seed", range(2))
def test_readers_lose_nothing_beside_writers_upkeep_and_retention(
    api: Client, document: Connection, database: Database, seed: int
) -> None:
    """Cursors and frozen walks: no loss, nothing twice. Pages by number: no loss."""
    draw = random.Random(seed)
    make_log(document, seed, a_day=(30, 600, 40))
    count_until(document, today())
    came: list[str] = []
    cursor, frozen, expected, walked, seen = "", None, [], [], set[str]()
    dropped: set[str] = set()
    with ExitStack() as stack:
        writers = [stack.enter_context(database.connect("app_user", autocommit=False)) for _ in range(4)]
        for _ in range(160):
            writer = draw.choice(writers)
            what = draw.choice(
                ["write"] * 5 + ["commit"] * 2 + ["rollback", "upkeep", "cursor", "cursor", "walk", "walk"]
            )
            if what == "write":
                many = draw.choice([1, 1, 3])
                writer.execute("insert into document (workspace_id) select 'acme' from generate_series(1, %s)", [many])
            elif what in ("commit", "rollback"):
                getattr(writer, what)()
            elif what == "upkeep":
                document.execute("select audit.advance_watermark()")
                document.execute("select audit.advance_counts()")
                if draw.random() < 0.2:
                    close_days(document)
            elif what == "cursor":
                body = get(api, cursor=cursor, page_size=draw.choice([1, 7, 200]))
                came += ids(body)
                cursor = body["meta"]["cursor"]
            elif frozen is None:
                row = document.execute("select moment from audit.watermark").fetchone()
                assert row is not None
                expected = kept(document, row[0])
                body = get(api, as_of="now", page_size=draw.choice([40, 100, 500]))
                frozen, walked = body["next"], ids(body)
            else:
                answer = api.get(frozen, headers=AS_ADMIN)
                # The end may have gone with its day.
                body = answer.json() if answer.status_code == 200 else {"results": [], "next": None}
                walked += ids(body)
                frozen = body["next"]
                if draw.random() < 0.05:
                    for each in writers:
                        each.commit()
                    dropped |= drop_oldest_day(document)
                if frozen is None:
                    left = [key for key in reversed(expected) if key not in dropped]
                    assert [key for key in walked if key not in dropped] == left
        # By number, beside commits: later pages show again what was pushed back, and nothing is lost.
        before = set(kept(document)) - dropped
        page = 1
        while True:
            answer = api.get(WORKSPACE, params={"page": str(page), "page_size": "100"}, headers=AS_ADMIN)
            if answer.status_code == 404:
                break
            seen |= set(ids(answer.json()))
            draw.choice(writers).commit()
            page += 1
        assert before <= seen
        for writer in writers:
            writer.commit()
    settle(document)
    while True:
        body = get(api, cursor=cursor, page_size=200)
        came += ids(body)
        cursor = body["meta"]["cursor"]
        if body["next"] is None:
            break
    assert len(came) == len(set(came))
    assert [key for key in came if key not in dropped] == [key for key in kept(document) if key not in dropped]


def drop_oldest_day(db: Connection) -> set[str]:
    """Let retention take the oldest day there is, in its two steps; return the entries it hides by now or soon."""
    row = db.execute(
        "select partition_name, audit.utc_day(clock_timestamp()) - audit.utc_day(lower_bound) - 1"
        " from audit.day_partition where log_table = 'entry' and upper_bound < %s order by lower_bound limit 1",
        [today()],
    ).fetchone()
    if row is None:
        return set()
    hidden = "select id::text from audit.entry where created_at < now() - %s * interval '1 day' + interval '5 minutes'"
    found = {entry[0] for entry in db.execute(hidden.encode(), [row[1]]).fetchall()}
    db.execute("update audit.upkeep set retention_days = %s", [row[1]])
    db.execute("select audit.move_oldest_day()")
    db.execute("update audit.upkeep set oldest_day_since = now() - interval '6 minutes'")
    db.execute("select audit.drop_day(%s)", [row[0]])
    return found


def test_counts_forget_a_day_that_is_dropped(api: Client, document: Connection) -> None:
    entries = make_log(document, seed=1, a_day=(30, 40))
    count_until(document, today())
    close_days(document)
    dropped = drop_oldest_day(document)
    left = [e for e in entries if str(e.id) not in dropped and e.workspace_id == "acme" and e.event != "log_viewed"]
    assert get(api, created_after=(today(minutes=6) - timedelta(days=1)).isoformat())["count"] >= len(left)
    days = "select min(day), max(day) from audit.daily_activity"
    yesterday = today(hours=-24).date()
    assert document.execute(days).fetchone() == (yesterday, yesterday)
    totals = "select min(starts_at), max(starts_at) from audit.activity_total where part = 'day'"
    assert document.execute(totals).fetchone() == (today(hours=-24), today(hours=-24))
    closed = document.execute("select day_name from audit.closed_day order by 1").fetchall()
    assert closed == [(f"entry_{yesterday:%Y%m%d}",)]
