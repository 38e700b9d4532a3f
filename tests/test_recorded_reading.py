"""Reading is recorded: who read the log, who exported it, who tried to write to it, before the answer or not at all.

It must not look at what is read; test_notification.py and test_page.py do.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from litestar.testing import TestClient

from daybook.app import create_app
from daybook.authentication import Identity
from tests.conftest import Database
from tests.reading import (
    AS_ADMIN,
    AS_AUDITOR,
    AS_MEMBER,
    AS_STRANGER,
    ENTRY,
    PAGE,
    RESOURCE,
    WORKSPACE,
    Client,
    add_entry,
    add_keys,
    key_for,
    opened,
    settings_for,
    signed_in,
)
from tests.trail import count

Connection = psycopg.Connection[Any]

UNREADABLE = '{"detail":"The log cannot be read at the moment. Please try again."}'


@pytest.fixture
def api(database: Database, db: Connection) -> Iterator[Client]:
    add_keys(db)
    with opened(database) as client:
        yield client


def recorded(db: Connection, event: str = "log_viewed", columns: str = "workspace_id, resource_id") -> list[Any]:
    """The entries of an event, oldest first."""
    query = f"select {columns} from audit.entry where event = %s order by created_at, workspace_id"
    return db.execute(query.encode(), [event]).fetchall()


# Viewing


def test_reading_leaves_one_entry_for_each_key_and_day(api: Client, db: Connection) -> None:
    [api.get(WORKSPACE, headers=headers) for headers in (AS_ADMIN, AS_ADMIN, AS_AUDITOR, AS_STRANGER, AS_ADMIN)]
    assert recorded(db) == [("acme", "aaaaaaaa"), ("acme", "bbbbbbbb"), ("globex", "ssssssss")]


def test_the_entry_says_who_read_from_where(database: Database, db: Connection) -> None:
    add_keys(db)
    with opened(database, trusted_proxies=()) as api:
        api.get(WORKSPACE, headers={**AS_ADMIN, "User-Agent": "curl/8 \x7f"})
    columns = "actor_type, actor_id, actor_name, resource_type, resource_name, operation, row_count, context"
    assert recorded(db, columns=columns) == [
        ("service", "aaaaaaaa", "admin's key", "audit_log", "admin's key", "EVENT", 0, {"user_agent": "curl/8 \x7f"})
    ]


def test_the_page_and_the_api_are_one_log_to_view(api: Client, db: Connection) -> None:
    api.get(PAGE, headers=signed_in("a"))
    api.get(WORKSPACE, headers=AS_ADMIN)
    assert recorded(db) == [("acme", "aaaaaaaa")]


@pytest.mark.parametrize("address", [WORKSPACE, RESOURCE + "?resource_id=1", ENTRY + "{entry}/", PAGE])
def test_every_way_to_read_is_recorded(api: Client, db: Connection, address: str) -> None:
    entry = add_entry(db)
    answer = api.get(address.format(entry=entry), headers={**AS_ADMIN, **signed_in("a")})
    assert (answer.status_code, recorded(db)) == (200, [("acme", "aaaaaaaa")])


def test_the_next_utc_day_has_an_entry_of_its_own(api: Client, db: Connection) -> None:
    api.get(WORKSPACE, headers=AS_ADMIN)
    db.execute("update audit.reading set viewed_on = viewed_on - 1")
    api.get(WORKSPACE, headers=AS_ADMIN)
    assert recorded(db) == [("acme", "aaaaaaaa"), ("acme", "aaaaaaaa")]


def test_the_entry_is_committed_before_the_answer_is_read(api: Client, db: Connection) -> None:
    db.execute("alter view audit.timeline rename to timeline_of_old")
    answer = api.get(WORKSPACE, headers=AS_ADMIN)
    assert (answer.status_code, recorded(db)) == (500, [("acme", "aaaaaaaa")])


def test_of_many_first_requests_at_once_one_records(database: Database, db: Connection) -> None:
    add_keys(db)
    with opened(database, pool_size=8) as api, ThreadPoolExecutor(8) as others:
        answers = list(others.map(lambda _: api.get(WORKSPACE, headers=AS_ADMIN).status_code, range(16)))
    assert (set(answers), recorded(db)) == ({200}, [("acme", "aaaaaaaa")])


@pytest.mark.parametrize(
    ("address", "headers", "status"),
    [
        (WORKSPACE, {}, 401),
        (WORKSPACE, AS_MEMBER, 403),
        (WORKSPACE + "?days=x", AS_ADMIN, 400),
        (WORKSPACE + "?page=0", AS_ADMIN, 404),
        (RESOURCE, AS_ADMIN, 400),
        (ENTRY + "x/", AS_ADMIN, 404),
        ("/healthz", AS_ADMIN, 200),
        ("/schema/openapi.json", AS_ADMIN, 200),
        (PAGE + "/sign-in", signed_in("a"), 200),
    ],
)
def test_what_was_not_read_is_not_recorded(
    api: Client, db: Connection, address: str, headers: dict[str, str], status: int
) -> None:
    assert (api.get(address, headers=headers).status_code, recorded(db)) == (status, [])


@pytest.mark.parametrize(
    "breakage",
    [
        "revoke execute on function audit.note_reading(audit.reader) from audit_reader",
        "alter table audit.reading rename to reading_of_old",
        "alter table audit.entry add constraint full_up check (event <> 'log_viewed')",
    ],
)
def test_a_reading_that_cannot_be_recorded_is_refused(
    database: Database, api: Client, db: Connection, breakage: str
) -> None:
    add_entry(db)
    db.execute(breakage.encode())
    answer = api.get(WORKSPACE, headers=AS_ADMIN)
    assert (answer.status_code, answer.text, answer.headers["Retry-After"]) == (503, UNREADABLE, "5")
    assert api.get(PAGE, headers=signed_in("a")).status_code == 503
    assert recorded(db) == []


def test_a_reader_s_own_pages_are_not_shifted_by_his_reading(api: Client, db: Connection) -> None:
    entries = [add_entry(db) for _ in range(3)]
    first = api.get(WORKSPACE, params={"page_size": 2}, headers=AS_ADMIN).json()
    second = api.get(WORKSPACE, params={"page_size": 2, "page": 2}, headers=AS_AUDITOR).json()
    seen = [row["id"] for row in first["results"] + second["results"]]
    assert (sorted(seen), first["count"], second["count"]) == (sorted(entries), 3, 3)


# Last use


def test_the_last_use_is_noted_at_most_every_five_minutes(api: Client, db: Connection) -> None:
    noted = "select last_used_at from audit.reading"
    api.get(WORKSPACE, headers=AS_ADMIN)
    first = db.execute(noted).fetchone()
    api.get(WORKSPACE, headers=AS_ADMIN)
    assert db.execute(noted).fetchone() == first
    db.execute("update audit.reading set last_used_at = last_used_at - interval '5 minutes'")
    api.get(WORKSPACE, headers=AS_ADMIN)
    assert db.execute("select last_used_at > %s from audit.reading", first).fetchone() == (True,)
    assert recorded(db) == [("acme", "aaaaaaaa")]


# Exports


def test_an_export_is_recorded_with_its_filter_and_row_count(database: Database, db: Connection) -> None:
    reader = database.connect("reader")
    reader.execute(
        "select audit.note_export(('acme', 'aaaaaaaa', 'Ada''s key', 'service', '10.1.2.3', 'curl'),"
        ' \'{"event": ["role_*"]}\', 1284)'
    )
    assert recorded(db, "log_exported", "workspace_id, resource_id, actor_name, context") == [
        (
            "acme",
            "aaaaaaaa",
            "Ada's key",
            {
                "ip": "10.1.2.3",
                "user_agent": "curl",
                "details": {"filter": {"event": ["role_*"]}, "row_count": 1284},
            },
        )
    ]


# Writes that are denied


def test_a_denied_write_is_recorded_in_the_workspace_of_its_key(database: Database, db: Connection) -> None:
    add_keys(db)
    with opened(database) as api:
        assert api.delete(ENTRY + "x/?secret=1", headers=AS_MEMBER).status_code == 403
    assert recorded(db, "log_write_denied", "workspace_id, resource_id, actor_id, context") == [
        (
            "acme",
            "mmmmmmmm",
            "mmmmmmmm",
            {"user_agent": "testclient", "details": {"method": "DELETE", "path": ENTRY + "x/"}},
        )
    ]


@pytest.mark.parametrize("headers", [{}, {"Authorization": f"Bearer {key_for('u')}"}, {"Authorization": "Bearer x"}])
def test_a_stranger_s_denied_write_is_recorded_for_dbas_alone(
    database: Database, db: Connection, headers: dict[str, str]
) -> None:
    add_keys(db)
    with opened(database) as api:
        assert api.post(WORKSPACE, headers=headers).status_code == 403
    columns = "workspace_id, resource_id, actor_type, actor_id"
    assert recorded(db, "log_write_denied", columns) == [(None, None, "system", "system")]


def test_a_flood_of_denied_writes_is_one_entry_a_day_for_each_key_and_one_for_strangers(
    database: Database, db: Connection
) -> None:
    add_keys(db)
    with opened(database, pool_size=4) as api, ThreadPoolExecutor(8) as others:
        senders = [AS_ADMIN, AS_MEMBER, {}, *({"Authorization": f"Bearer {key_for(c)}"} for c in "uvwxyz")] * 20
        answers = list(others.map(lambda headers: api.post(WORKSPACE, headers=headers).status_code, senders))
    with opened(database) as api:
        api.post(WORKSPACE, headers=AS_ADMIN)
        api.post(WORKSPACE)
    assert set(answers) == {403}
    found = recorded(db, "log_write_denied")
    assert len(found) == len(set(found))
    assert (
        {("acme", "aaaaaaaa"), (None, None)} <= set(found) <= {("acme", "aaaaaaaa"), ("acme", "mmmmmmmm"), (None, None)}
    )


def test_a_write_is_recorded_although_who_wrote_cannot_be_found_out(database: Database, db: Connection) -> None:
    async def failing(_: Any) -> Identity | None:
        raise RuntimeError

    with TestClient(create_app(settings_for(database), failing), raise_server_exceptions=False) as api:
        assert api.post(WORKSPACE, headers=AS_ADMIN).status_code == 403
    assert recorded(db, "log_write_denied") == [(None, None)]


def test_a_write_is_refused_whether_or_not_that_can_be_recorded(database: Database, db: Connection) -> None:
    with opened(database, user="nobody_of_this_name", pool_timeout=0.1) as api:
        answer = api.post(WORKSPACE, content=json.dumps({"event": "x"}))
    assert (answer.status_code, count(db, "select count(*) from audit.entry")) == (403, 0)


def test_the_denied_writes_of_others_do_not_shift_a_reader_s_pages(database: Database, db: Connection) -> None:
    add_keys(db)
    with opened(database) as api:
        api.post(WORKSPACE, headers=AS_ADMIN)
    with opened(database) as api:
        assert api.get(WORKSPACE, headers=AS_ADMIN).json()["count"] == 0
        listed = api.get(WORKSPACE, params={"event": "log_write_denied"}, headers=AS_ADMIN).json()
    assert [row["event"] for row in listed["results"]] == ["log_write_denied"]
