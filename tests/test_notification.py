"""What the two lists, an entry and its changes show: which entries, in which order, with which keys and links.

It must not repeat the table of answers, which test_answers.py holds.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from daybook import filters, queries
from tests.conftest import Database
from tests.reading import (
    AS_ADMIN,
    AS_STRANGER,
    ENTRY,
    RESOURCE,
    WORKSPACE,
    Client,
    add_changes,
    add_entry,
    add_keys,
    opened,
    today,
)

Connection = psycopg.Connection[Any]


@pytest.fixture
def api(database: Database, db: Connection) -> Iterator[Client]:
    add_keys(db)
    with opened(database) as client:
        yield client


def listed(api: Client, path: str = WORKSPACE, **parameters: Any) -> list[str]:
    """The ids of the entries on a page, in their order."""
    answer = api.get(path, params=parameters or None, headers=AS_ADMIN)
    assert answer.status_code == 200, answer.text
    return [row["id"] for row in answer.json()["results"]]


# The body


def test_the_body_has_its_keys_in_the_promised_order(api: Client, db: Connection) -> None:
    moment = today(hours=-2)
    entry = add_entry(db, moment)
    answer = api.get(WORKSPACE, headers=AS_ADMIN)
    assert answer.text == (
        f'{{"count":1,"next":null,"previous":null,"results":[{{"id":"{entry}","created_at":"{moment:%Y-%m-%dT%H:%M:%S}Z",'
        '"event":"resource_updated","resource_id":"1","resource_type":"document",'
        '"performer":{"id":"42","name":"Ada Lovelace"}}],'
        '"links":{"next":null,"previous":null},"meta":{"page":1,"next_page":null,"previous_page":null},"total_pages":1}'
    )


def test_microseconds_are_written_when_they_are_not_zero(api: Client, db: Connection) -> None:
    add_entry(db, today(hours=-2, microseconds=120))
    [row] = api.get(WORKSPACE, headers=AS_ADMIN).json()["results"]
    assert row["created_at"].endswith(":00:00.000120Z")


def test_a_moment_is_in_utc_whatever_the_server_s_time_zone(database: Database, db: Connection) -> None:
    db.execute(f"alter database {database.name} set timezone to 'Asia/Kathmandu'")
    add_keys(db)
    entry = add_entry(db, today(hours=-2))
    with opened(database) as api:
        [row] = api.get(WORKSPACE, headers=AS_ADMIN).json()["results"]
    assert (row["id"], row["created_at"]) == (entry, today(hours=-2).strftime("%Y-%m-%dT%H:%M:%SZ"))


def test_what_no_user_did_is_by_system(api: Client, db: Connection) -> None:
    db.execute("create table document (id integer primary key, workspace_id text)")
    db.execute("select audit.enable_tracking('document')")
    db.execute("insert into document values (7, 'acme')")
    [row] = api.get(WORKSPACE, headers=AS_ADMIN).json()["results"]
    assert (row["event"], row["resource_id"]) == ("resource_created", "7")
    assert row["performer"] == {"id": "system", "name": "system"}


# Which entries, in which order


def test_entries_are_listed_newest_first_and_by_id_within_a_moment(api: Client, db: Connection) -> None:
    old, new = add_entry(db, today(hours=-3)), add_entry(db, today(hours=-1))
    twins = sorted([add_entry(db, today(hours=-2)), add_entry(db, today(hours=-2))], reverse=True)
    assert listed(api) == [new, *twins, old]


def test_a_walk_over_the_pages_meets_every_entry_once(api: Client, db: Connection) -> None:
    entries = [add_entry(db, today(hours=-1)) for _ in range(5)]
    pages = [listed(api, page=page, page_size=2) for page in (1, 2, 3)]
    assert pages[0] + pages[1] + pages[2] == sorted(entries, reverse=True)


def test_another_workspace_s_key_sees_none_of_it(api: Client, db: Connection) -> None:
    own = add_entry(db, workspace_id="globex")
    foreign = add_entry(db, resource_id="1")
    answer = api.get(RESOURCE, params={"resource_id": "1"}, headers=AS_STRANGER)
    assert [row["id"] for row in answer.json()["results"]] == [own]
    assert api.get(ENTRY + foreign + "/", headers=AS_STRANGER).status_code == 404
    assert api.get(ENTRY + foreign + "/changes/", headers=AS_STRANGER).status_code == 404


def test_system_wide_entries_are_for_dbas_only(api: Client, db: Connection) -> None:
    add_entry(db, workspace_id=None)
    assert listed(api) == []


def test_days_reach_back_by_24_hours_each(api: Client, db: Connection) -> None:
    now = db.execute("select now() - interval '24 hours'").fetchone()[0]  # type: ignore[index]
    add_entry(db, now.replace(microsecond=0) - timedelta(minutes=1))
    inside = add_entry(db, now.replace(microsecond=0) + timedelta(minutes=1))
    assert listed(api, days=1) == [inside]


def test_entries_of_90_days_are_listed_unless_told_otherwise(api: Client, db: Connection) -> None:
    db.execute("update audit.upkeep set retention_days = 365")
    old, older = add_entry(db, today(hours=-24 * 89)), add_entry(db, today(hours=-24 * 100))
    assert listed(api) == [old]
    assert listed(api, days=120) == [old, older]


def test_days_above_the_retention_are_the_retention(api: Client, db: Connection) -> None:
    db.execute("update audit.upkeep set retention_days = 10")
    kept, gone = add_entry(db, today(hours=-24 * 9)), add_entry(db, today(hours=-24 * 12))
    assert listed(api, days=90) == [kept]
    assert api.get(ENTRY + gone + "/", headers=AS_ADMIN).status_code == 404


def test_reading_the_log_is_listed_only_when_it_is_named(api: Client, db: Connection) -> None:
    exported, other = add_entry(db, event="log_exported"), add_entry(db, event="logo_updated")
    assert listed(api) == [other]
    assert listed(api, event="*") == [other]
    # The first of these is the log_viewed that the reading above left.
    assert listed(api, event="log_*")[1:] == [exported]
    assert listed(api, event="log_exported") == [exported]


# Links


def test_links_are_absolute_and_keep_every_other_parameter_sorted_by_name(api: Client, db: Connection) -> None:
    [add_entry(db) for _ in range(3)]
    answer = api.get(WORKSPACE + "?z=1&page=2&page_size=1&b=%C3%A4+%26&a&page=2&event=*&z=0&s=%ff%zz", headers=AS_ADMIN)
    assert answer.json()["next"] == (
        "http://log.example/api/v1/notification/workspace/?a=&b=%C3%A4+%26&event=%2A&page=3&page_size=1&s=%FF%25zz&z=1&z=0"
    )
    assert answer.json()["previous"] == (
        "http://log.example/api/v1/notification/workspace/?a=&b=%C3%A4+%26&event=%2A&page_size=1&s=%FF%25zz&z=1&z=0"
    )
    assert answer.json()["links"] == {"next": answer.json()["next"], "previous": answer.json()["previous"]}


def test_the_first_page_s_link_is_bare_when_nothing_else_was_asked(api: Client, db: Connection) -> None:
    [add_entry(db) for _ in range(51)]
    first = api.get(WORKSPACE.rstrip("/"), headers=AS_ADMIN).json()
    second = api.get(first["next"], headers=AS_ADMIN).json()
    assert (first["next"], first["previous"]) == ("http://log.example/api/v1/notification/workspace/?page=2", None)
    assert (second["next"], second["previous"]) == (None, "http://log.example/api/v1/notification/workspace/")
    assert second["meta"] == {"page": 2, "next_page": None, "previous_page": 1}


def test_a_wrong_page_size_is_kept_in_the_links(api: Client, db: Connection) -> None:
    [add_entry(db) for _ in range(51)]
    answer = api.get(WORKSPACE, params={"page_size": "many"}, headers=AS_ADMIN)
    assert answer.json()["next"] == "http://log.example/api/v1/notification/workspace/?page=2&page_size=many"


# A resource's entries


def test_a_resource_s_entries_are_its_own_its_permissions_and_the_bulk_ones_that_touched_it(
    api: Client, db: Connection
) -> None:
    own = add_entry(db, today(hours=-3), resource_id="7")
    permission = add_entry(db, today(hours=-2), resource_id="7", event="permission_granted", row_key="99")
    bulk = add_entry(db, today(hours=-1), resource_id=None, row_count=3)
    add_changes(db, bulk, range(6, 9))
    add_entry(db, resource_id="8")
    assert listed(api, RESOURCE, resource_id="7") == [bulk, permission, own]


def test_a_bulk_entry_about_one_resource_is_listed_once(api: Client, db: Connection) -> None:
    bulk = add_entry(db, resource_id="7", row_count=3, event="permission_granted")
    add_changes(db, bulk, range(7, 8))
    add_changes(db, bulk, range(7, 8))
    answer = api.get(RESOURCE, params={"resource_id": "7"}, headers=AS_ADMIN).json()
    assert (answer["count"], [row["id"] for row in answer["results"]]) == (1, [bulk])


def test_a_bulk_entry_that_touched_a_resource_twice_is_counted_once(api: Client, db: Connection) -> None:
    bulk = add_entry(db, resource_id=None, row_count=3)
    add_changes(db, bulk, range(6, 9))
    add_changes(db, bulk, range(6, 9))
    answer = api.get(RESOURCE, params={"resource_id": "7"}, headers=AS_ADMIN).json()
    assert (answer["count"], [row["id"] for row in answer["results"]]) == (1, [bulk])


def test_a_resource_type_narrows_the_resource(api: Client, db: Connection) -> None:
    add_entry(db, resource_id="7", resource_type="dashboard")
    document = add_entry(db, resource_id="7")
    bulk = add_entry(db, today(hours=-2), resource_id=None, row_count=2)
    add_changes(db, bulk, range(7, 9))
    assert len(listed(api, RESOURCE, resource_id="7")) == 3
    assert listed(api, RESOURCE, resource_id="7", resource_type="document") == [document, bulk]


def test_a_bulk_update_of_a_tracked_table_is_found_by_each_row_s_id(api: Client, db: Connection) -> None:
    db.execute("create table document (id integer primary key, workspace_id text, size integer)")
    db.execute("insert into document select n, 'acme', 0 from generate_series(1, 30) n")
    db.execute("select audit.enable_tracking('document')")
    db.execute("update document set size = id")
    [row] = api.get(RESOURCE, params={"resource_id": "17", "expand": "changes"}, headers=AS_ADMIN).json()["results"]
    assert (row["event"], row["resource_id"], row["changes"]["row_count"]) == ("resource_updated", None, 30)


# Filters


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", "ABC"),
        ("event=resource_updated", "A"),
        ("event=resource_updated&event=role_assigned", "AC"),
        ("event=resource_updated,role_assigned", "AC"),
        ("event=resource_*", "AB"),
        ("event=resource_*,role_assigned", "ABC"),
        ("event=,", "ABC"),
        ("event=nothing_happened", ""),
        ("event=resource", ""),
        ("performer_id=42", "AB"),
        ("performer_id=system", "C"),
        ("performer_id=", "ABC"),
        ("resource_type=user", "C"),
        ("resource_id=2", "B"),
        ("request_id=r-1", "A"),
        ("performer_id=42&event=resource_deleted", "B"),
        ("unknown=1&search=nothing", "ABC"),
    ],
)
def test_filters_narrow_a_list(api: Client, db: Connection, query: str, found: str) -> None:
    a = add_entry(db, today(hours=-1), request_id="r-1")
    b = add_entry(db, today(hours=-2), event="resource_deleted", resource_id="2")
    c = add_entry(
        db, today(hours=-3), event="role_assigned", resource_type="user", actor_id="system", actor_name="system"
    )
    assert "".join({a: "A", b: "B", c: "C"}[entry] for entry in listed(api, f"{WORKSPACE}?{query}")) == found


def test_created_after_includes_its_moment_and_created_before_does_not(api: Client, db: Connection) -> None:
    early, middle, late = (add_entry(db, today(hours=hours)) for hours in (-3, -2, -1))
    edge = today(hours=-2).isoformat()
    assert listed(api, created_after=edge) == [late, middle]
    assert listed(api, created_before=edge) == [early]


def test_a_date_is_its_first_moment_in_utc(api: Client, db: Connection) -> None:
    add_entry(db, today(hours=-25))
    yesterday = add_entry(db, today(hours=-24))
    day = today(hours=-24).strftime("%Y-%m-%d")
    assert listed(api, created_after=day, created_before=today().strftime("%Y-%m-%d")) == [yesterday]


def test_an_offset_whose_plus_was_not_escaped_is_read(api: Client, db: Connection) -> None:
    entry = add_entry(db, today(hours=-2))
    local = today(hours=-1).strftime("%Y-%m-%dT%H:%M:%S+01:00")
    assert listed(api, f"{WORKSPACE}?created_after={local}&created_before={local.replace(':00+', ':01+')}") == [entry]


@pytest.mark.parametrize(
    "moment",
    ["2024-02-29", "2000-02-29", "2026-03-14 09:30", "2026-03-14t09:30z", "2026-03-14T09:30:00.123456789Z",
     "2026-03-14T09:30:00+0200", "2026-03-14 09:30 02:00", "0001-01-01T00:00:00+14:00", "0001-01-01"],
)  # fmt: skip
def test_a_moment_has_several_spellings(api: Client, db: Connection, moment: str) -> None:
    entry = add_entry(db)
    assert listed(api, created_after=moment) == [entry]


def test_the_last_moment_of_the_calendar_is_no_error(api: Client, db: Connection) -> None:
    entry = add_entry(db)
    assert listed(api, created_after="9999-12-31T23:59:59-14:00") == []
    assert listed(api, created_before="9999-12-31T23:59:59-14:00") == [entry]


@pytest.mark.parametrize(
    "moment",
    ["soon", "2026-13-01", "2025-02-29", "1900-02-29", "0000-01-01", "20260314", "2026-W11-6", "2026-03-14T09",
     "2026-03-14T24:00", "2026-03-14T09:30:60Z", "2026-03-14T09:30+24:00", "2026-03-14x09:30", "2026-03-14\n",
     "\uff19\uff19\uff19\uff19-01-01", "1e9", "\0"],
)  # fmt: skip
def test_a_moment_that_cannot_be_read_is_refused(api: Client, moment: str) -> None:
    answer = api.get(WORKSPACE, params={"created_after": moment}, headers=AS_ADMIN)
    assert (answer.status_code, list(answer.json())) == (400, ["created_after"])


@pytest.mark.parametrize("event", ["Resource_Updated", "re*ed", "**", "a b", "ä_updated", "x\0"])
def test_an_event_of_impossible_form_is_refused(api: Client, event: str) -> None:
    answer = api.get(WORKSPACE, params={"event": event}, headers=AS_ADMIN)
    assert (answer.status_code, list(answer.json())) == (400, ["event"])


# Expansions


def test_an_entry_expands_in_a_fixed_order(api: Client, db: Connection) -> None:
    add_entry(
        db,
        resource_name="Revenue KPIs",
        before={"title": "Revenue"},
        after={"title": "Revenue KPIs"},
        request_id="r-1",
        context={"reason": "typo", "ip": "192.0.2.7", "user_agent": "curl", "metadata": {"ticket": 7}},
    )
    [row] = api.get(WORKSPACE, params={"expand": "resource,actor,changes,context"}, headers=AS_ADMIN).json()["results"]
    assert list(row)[6:] == ["changes", "context", "actor", "resource"]
    assert row["changes"] == {
        "row_count": 1,
        "rows": [
            {
                "resource_id": "1",
                "resource_name": "Revenue KPIs",
                "row_key": None,
                "before": {"title": "Revenue"},
                "after": {"title": "Revenue KPIs"},
            }
        ],
        "url": None,
    }
    assert row["context"] == {
        "request_id": "r-1",
        "reason": "typo",
        "ip": "192.0.2.7",
        "user_agent": "curl",
        "metadata": {"ticket": 7},
        "subject": None,
        "details": None,
        "invalid": None,
        "database_user": "app",
        "transaction_id": "1234",
    }
    assert row["actor"] == {"type": "user", "id": "42", "name": "Ada Lovelace"}
    assert row["resource"] == {
        "type": "document",
        "id": "1",
        "name": "Revenue KPIs",
        "table_schema": "public",
        "table_name": "document",
    }


def test_expansions_may_be_repeated_or_separated_by_commas(api: Client, db: Connection) -> None:
    add_entry(db)
    [row] = api.get(WORKSPACE + "?expand=resource&expand=actor,actor", headers=AS_ADMIN).json()["results"]
    assert list(row)[6:] == ["actor", "resource"]


def test_a_bulk_entry_shows_20_of_its_rows_and_where_all_are(api: Client, db: Connection) -> None:
    bulk = add_entry(db, resource_id=None, row_count=21)
    add_changes(db, bulk, range(1, 22))
    [row] = api.get(WORKSPACE, params={"expand": "changes"}, headers=AS_ADMIN).json()["results"]
    assert [change["resource_id"] for change in row["changes"]["rows"]] == [str(number) for number in range(1, 21)]
    assert row["changes"]["row_count"] == 21
    assert row["changes"]["url"] == f"http://log.example/api/v1/notification/entry/{bulk}/changes/"


def test_a_bulk_entry_of_20_rows_shows_all(api: Client, db: Connection) -> None:
    bulk = add_entry(db, resource_id=None, row_count=20)
    add_changes(db, bulk, range(1, 21))
    [row] = api.get(WORKSPACE, params={"expand": "changes"}, headers=AS_ADMIN).json()["results"]
    assert (len(row["changes"]["rows"]), row["changes"]["url"]) == (20, None)


def test_an_event_and_a_truncate_have_no_rows_to_show(api: Client, db: Connection) -> None:
    add_entry(db, event="document_exported", operation="EVENT", row_count=0, context={"details": {"format": "csv"}})
    add_entry(db, operation="TRUNCATE", row_count=500, resource_id=None, event="resource_deleted")
    rows = api.get(WORKSPACE, params={"expand": "changes"}, headers=AS_ADMIN).json()["results"]
    assert sorted((row["changes"]["row_count"], row["changes"]["rows"], row["changes"]["url"]) for row in rows) == [
        (0, [], None),
        (500, [], None),
    ]


def test_numbers_keep_every_digit(api: Client, db: Connection) -> None:
    db.execute("create table price (id integer primary key, workspace_id text, amount numeric)")
    db.execute("select audit.enable_tracking('price')")
    db.execute("insert into price values (1, 'acme', 12345678901234567890.123456789000)")
    answer = api.get(WORKSPACE, params={"expand": "changes"}, headers=AS_ADMIN)
    assert '"amount": 12345678901234567890.123456789000' in answer.text


# One entry, and its changes


def test_an_entry_is_found_by_its_id(api: Client, db: Connection) -> None:
    entry = add_entry(db, today(hours=-5, microseconds=999_999))
    [listed_row] = api.get(WORKSPACE, headers=AS_ADMIN).json()["results"]
    assert api.get(ENTRY + entry + "/", headers=AS_ADMIN).json() == listed_row
    assert api.get(ENTRY + entry.upper(), headers=AS_ADMIN).json() == listed_row


def test_an_entry_of_reading_is_found_by_its_id(api: Client, db: Connection) -> None:
    entry = add_entry(db, event="log_viewed")
    assert api.get(ENTRY + entry, headers=AS_ADMIN).json()["event"] == "log_viewed"


def test_an_entry_expands_as_in_a_list(api: Client, db: Connection) -> None:
    entry = add_entry(db, after={"a": 1})
    answer = api.get(ENTRY + entry, params={"expand": "changes"}, headers=AS_ADMIN).json()
    assert (list(answer)[6:], answer["changes"]["rows"][0]["after"]) == (["changes"], {"a": 1})


def test_an_entry_refuses_what_it_cannot_expand(api: Client, db: Connection) -> None:
    answer = api.get(ENTRY + add_entry(db), params={"expand": "everything"}, headers=AS_ADMIN)
    assert (answer.status_code, answer.json()) == (400, {"expand": ["Choose among changes, context, actor, resource."]})


def test_all_rows_of_an_entry_are_paged(api: Client, db: Connection) -> None:
    bulk = add_entry(db, resource_id=None, row_count=30)
    add_changes(db, bulk, range(1, 31))
    answer = api.get(f"{ENTRY}{bulk}/changes", params={"page": "2", "page_size": "20"}, headers=AS_ADMIN).json()
    assert list(answer) == ["count", "next", "previous", "results", "links", "meta", "total_pages"]
    assert [row["resource_id"] for row in answer["results"]] == [str(number) for number in range(21, 31)]
    assert answer["previous"] == f"http://log.example{ENTRY}{bulk}/changes/?page_size=20"


def test_the_only_row_of_an_entry_is_its_page_of_changes(api: Client, db: Connection) -> None:
    entry = add_entry(db, before={"a": 1}, after={"a": 2})
    answer = api.get(f"{ENTRY}{entry}/changes/", headers=AS_ADMIN).json()
    assert (answer["count"], answer["results"]) == (
        1,
        [{"resource_id": "1", "resource_name": None, "row_key": None, "before": {"a": 1}, "after": {"a": 2}}],
    )
    assert api.get(f"{ENTRY}{entry}/changes/?page=2", headers=AS_ADMIN).status_code == 404


@pytest.mark.parametrize(("operation", "row_count"), [("TRUNCATE", 1), ("TRUNCATE", 9), ("EVENT", 0), ("EVENT", 1)])
def test_an_event_and_a_truncate_have_no_page_of_changes_either(
    api: Client, db: Connection, operation: str, row_count: int
) -> None:
    entry = add_entry(db, operation=operation, row_count=row_count, event="resource_deleted")
    answer = api.get(f"{ENTRY}{entry}/changes/", headers=AS_ADMIN).json()
    assert (answer["count"], answer["results"], answer["total_pages"]) == (0, [], 1)
    assert api.get(f"{ENTRY}{entry}/changes/?page=2", headers=AS_ADMIN).status_code == 404


# Rights


def test_a_read_runs_as_audit_reader_in_a_transaction_that_cannot_write(database: Database, db: Connection) -> None:
    add_keys(db)
    entry = add_entry(db, resource_name="?")
    db.execute("""
        create or replace view audit.timeline with (security_invoker = true) as
        select id, created_at, workspace_id, event, operation, table_schema, table_name, resource_type, resource_id,
               format('%s %s %s %s %s', current_user, current_setting('transaction_read_only'),
                      current_setting('transaction_isolation'), current_setting('plan_cache_mode'),
                      current_setting('search_path'))
               collate "default" as resource_name,
               row_key, actor_type, actor_id, actor_name, row_count, before, after, request_id, context,
               database_user, transaction_id
        from audit.entry""")
    with opened(database, user="postgres") as api:
        alone = api.get(ENTRY + entry, params={"expand": "resource"}, headers=AS_ADMIN).json()
        [listed] = api.get(WORKSPACE, params={"expand": "resource"}, headers=AS_ADMIN).json()["results"]
    assert listed["resource"]["name"] == "audit_reader on repeatable read force_custom_plan pg_catalog, pg_temp"
    # One statement has one snapshot in any case.
    assert alone["resource"]["name"] == "audit_reader on read committed force_custom_plan pg_catalog, pg_temp"


@pytest.mark.parametrize("user", ["reader", "postgres"])
def test_the_app_s_queries_leave_the_workspace_to_row_level_security(
    database: Database, db: Connection, user: str
) -> None:
    add_keys(db)
    own, _ = add_entry(db), add_entry(db, workspace_id="globex")
    bulk = add_entry(db, workspace_id="globex", resource_id=None, row_count=2)
    add_changes(db, bulk, range(1, 3))
    for each in ({**filters.FILTERS}, {name: 1 for name in filters.FILTERS if name != "q"}):
        assert "workspace_id" not in queries.count_statement(each) + queries.select_statement(each)
    with opened(database, user=user) as api:
        assert listed(api) == [own]
        assert listed(api, RESOURCE, resource_id="1") == [own]
        assert api.get(ENTRY + bulk, headers=AS_ADMIN).status_code == 404


def test_a_connection_that_served_one_workspace_shows_nothing_of_it_to_the_next(api: Client, db: Connection) -> None:
    add_entry(db)
    counts = [api.get(WORKSPACE, headers=headers).json()["count"] for headers in (AS_ADMIN, AS_STRANGER, AS_ADMIN)]
    assert counts == [1, 0, 1]
