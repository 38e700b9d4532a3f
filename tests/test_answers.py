"""The table of answers of the REST contract: what each kind of request is answered, to the letter.

It must not look at what is in the log; test_notification.py does.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from daybook import front
from tests.conftest import Database, TestServer
from tests.reading import (
    AS_ADMIN,
    AS_AUDITOR,
    AS_MEMBER,
    ENTRY,
    RESOURCE,
    WORKSPACE,
    Client,
    add_entry,
    add_key,
    add_keys,
    key_for,
    opened,
    shared_database,
    signed_in,
    today,
    wait_for_a_waiting_read,
    wait_for_an_answer,
)

FORBIDDEN = '{"detail":"You do not have permission to perform this action."}'
NO_CREDENTIALS = '{"detail":"Authentication credentials were not provided."}'
INVALID_PAGE = '{"detail":"Invalid page."}'
NOT_FOUND = '{"detail":"Not found."}'


@pytest.fixture(scope="module")
def filled(server: TestServer) -> Iterator[Database]:
    """A log of 51 entries of resource 1 in workspace acme."""
    with shared_database(server) as database:
        db = database.connect()
        add_keys(db)
        for second in range(51):
            add_entry(db, today(hours=-1, seconds=second))
        yield database


@pytest.fixture(scope="module")
def api(filled: Database) -> Iterator[Client]:
    with opened(filled) as client:
        yield client


# Method, before everything else


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    "path",
    [WORKSPACE, RESOURCE, WORKSPACE.rstrip("/"), ENTRY + "x/", "/api/v1/notification/", "/api/v1/notification/nothing"],
)
def test_a_write_is_refused_to_anybody(api: Client, method: str, path: str) -> None:
    answer = api.request(method, path)
    assert (answer.status_code, answer.text) == (403, FORBIDDEN)
    assert answer.headers["Allow"] == "GET, HEAD, OPTIONS"


def test_a_write_is_refused_to_an_administrator_too(api: Client) -> None:
    answer = api.post(WORKSPACE, headers=AS_ADMIN, json={"event": "resource_updated"})
    assert (answer.status_code, answer.text) == (403, FORBIDDEN)


def test_a_write_is_refused_before_its_address_is_judged(api: Client) -> None:
    answer = api.post(f"http://log.example//api//v1/notification/workspace/?days=x&q={'x' * 40_000}")
    assert (answer.status_code, answer.text) == (403, FORBIDDEN)


def test_other_methods_are_not_allowed(api: Client) -> None:
    answer = api.request("TRACE", WORKSPACE)
    assert (answer.status_code, answer.text) == (405, '{"detail":"Method \\"TRACE\\" not allowed."}')
    assert answer.headers["Allow"] == "GET, HEAD, OPTIONS"


@pytest.mark.parametrize("path", ["/healthz", "/schema/openapi.json", "/settings/audit-log"])
def test_a_write_elsewhere_is_not_allowed(api: Client, path: str) -> None:
    answer = api.post(path)
    assert (answer.status_code, answer.text) == (405, '{"detail":"Method \\"POST\\" not allowed."}')


@pytest.mark.parametrize("path", [WORKSPACE, RESOURCE, WORKSPACE.rstrip("/"), ENTRY + "x/", "/healthz"])
def test_options_needs_no_credentials(api: Client, path: str) -> None:
    answer = api.options(path)
    assert (answer.status_code, answer.text, answer.headers["Allow"]) == (200, "", "GET, HEAD, OPTIONS")


def test_options_of_an_unknown_path_is_not_found(api: Client) -> None:
    answer = api.options("/api/v1/notification/nothing/")
    assert (answer.status_code, answer.text) == (404, NOT_FOUND)


def test_head_is_get_without_a_body(api: Client) -> None:
    got, head = api.get(WORKSPACE, headers=AS_ADMIN), api.head(WORKSPACE, headers=AS_ADMIN)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers == got.headers


def test_head_is_refused_as_get_is(api: Client) -> None:
    answer = api.head(WORKSPACE)
    assert (answer.status_code, answer.content, answer.headers["WWW-Authenticate"]) == (401, b"", "Bearer")


# Credentials, then the right to read


@pytest.mark.parametrize("path", [WORKSPACE, RESOURCE, ENTRY + "x/", ENTRY + "x/changes/"])
def test_credentials_are_asked_for(api: Client, path: str) -> None:
    answer = api.get(path)
    assert (answer.status_code, answer.text) == (401, NO_CREDENTIALS)
    assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("header", ["Basic YTpi", f"Token {key_for('a')}", key_for("a"), ""])
def test_another_scheme_is_no_credentials(api: Client, header: str) -> None:
    answer = api.get(WORKSPACE, headers={"Authorization": header})
    assert (answer.status_code, answer.text) == (401, NO_CREDENTIALS)


@pytest.mark.parametrize("header", ["Bearer", "Bearer ", "bearer"])
def test_a_scheme_alone_holds_no_credentials(api: Client, header: str) -> None:
    answer = api.get(WORKSPACE, headers={"Authorization": header})
    assert (answer.status_code, answer.text) == (401, '{"detail":"Invalid token header. No credentials provided."}')
    assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("key", [key_for("u"), "x", key_for("a")[:-1], key_for("a") + "a", "daybook_", "daybook_ a"])
def test_an_unknown_key_is_invalid(api: Client, key: str) -> None:
    answer = api.get(WORKSPACE, headers={"Authorization": f"Bearer {key}"})
    assert (answer.status_code, answer.text) == (401, '{"detail":"Invalid token."}')
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_a_key_of_strange_bytes_is_invalid(api: Client) -> None:
    answer = api.get(WORKSPACE, headers=[(b"Authorization", b"Bearer daybook_\xff\xc3\xa9")])
    assert (answer.status_code, answer.text) == (401, '{"detail":"Invalid token."}')


def test_the_scheme_is_read_in_any_case(api: Client) -> None:
    assert api.get(WORKSPACE, headers={"Authorization": f"bEARER {key_for('a')}"}).status_code == 200


def test_a_cookie_is_no_credentials_for_the_api(api: Client) -> None:
    answer = api.get(WORKSPACE, headers=signed_in("a"))
    assert (answer.status_code, answer.text) == (401, NO_CREDENTIALS)


def test_a_revoked_key_is_invalid_from_the_next_request(database: Database, db: psycopg.Connection[object]) -> None:
    add_keys(db)
    with opened(database) as api:
        before = api.get(WORKSPACE, headers=AS_ADMIN)
        db.execute("select audit.revoke_key('aaaaaaaa')")
        after = api.get(WORKSPACE, headers=AS_ADMIN)
    assert (before.status_code, after.status_code, after.text) == (200, 401, '{"detail":"Invalid token."}')


def test_an_expired_key_is_invalid(database: Database, db: psycopg.Connection[object]) -> None:
    add_key(db, key_for("e"), "acme", "admin", datetime.now(UTC) - timedelta(seconds=1))
    with opened(database) as api:
        answer = api.get(WORKSPACE, headers={"Authorization": f"Bearer {key_for('e')}"})
    assert (answer.status_code, answer.text) == (401, '{"detail":"Invalid token."}')


@pytest.mark.parametrize("path", [WORKSPACE, RESOURCE, ENTRY + "x/", ENTRY + "x/changes/"])
def test_a_member_reads_nothing(api: Client, path: str) -> None:
    answer = api.get(path, headers=AS_MEMBER)
    assert (answer.status_code, answer.text) == (403, FORBIDDEN)


def test_an_auditor_reads_what_an_administrator_reads(api: Client) -> None:
    assert api.get(WORKSPACE, headers=AS_AUDITOR).json() == api.get(WORKSPACE, headers=AS_ADMIN).json()


# The order of the checks


def test_credentials_are_judged_before_parameters(api: Client) -> None:
    assert api.get(WORKSPACE, params={"days": "x", "page": "x"}).status_code == 401


def test_the_right_to_read_is_judged_before_parameters(api: Client) -> None:
    assert api.get(WORKSPACE, params={"days": "x", "page": "x"}, headers=AS_MEMBER).status_code == 403


def test_parameters_are_judged_before_the_page(api: Client) -> None:
    answer = api.get(WORKSPACE, params={"days": "x", "page": "x"}, headers=AS_ADMIN)
    assert (answer.status_code, answer.text) == (400, '{"days":["A valid integer is required."]}')


def test_all_wrong_parameters_are_named_at_once(api: Client) -> None:
    answer = api.get(RESOURCE, params={"days": "0", "expand": "all", "created_after": "soon"}, headers=AS_ADMIN)
    assert (answer.status_code, answer.json()) == (
        400,
        {
            "days": ["Ensure this value is greater than or equal to 1."],
            "created_after": ["Give a date or time such as 2026-03-14 or 2026-03-14T09:30:00Z."],
            "resource_id": ["This field is required."],
            "expand": ["Choose among changes, context, actor, resource."],
        },
    )


# Pages


@pytest.mark.parametrize(
    "page",
    ["0", "-1", "abc", "1.0", "3", "1" + "0" * 30, "9" * 5000, "\uff11", "1 ", "  1", "1_0", "0x1", "LAST", "\0"],
)
def test_a_page_that_is_not_there_is_not_found(api: Client, page: str) -> None:
    answer = api.get(WORKSPACE, params={"page": page}, headers=AS_ADMIN)
    assert (answer.status_code, answer.text) == (404, INVALID_PAGE)


@pytest.mark.parametrize("page", ["", "1", "+1", "01"])
def test_the_first_page_has_several_spellings(api: Client, page: str) -> None:
    answer = api.get(WORKSPACE, params={"page": page}, headers=AS_ADMIN)
    assert (answer.status_code, answer.json()["meta"]) == (200, {"page": 1, "next_page": 2, "previous_page": None})


@pytest.mark.parametrize("query", ["page=+1", "days=+7", "page_size=+50", "page=+1&days=+7&page_size=+50"])
def test_a_plus_that_was_not_escaped_is_a_sign(api: Client, query: str) -> None:
    answer = api.get(f"{WORKSPACE}?{query}", headers=AS_ADMIN)
    assert (answer.status_code, len(answer.json()["results"]), answer.json()["count"]) == (200, 50, 51)


def test_a_page_size_whose_plus_was_not_escaped_is_taken(api: Client) -> None:
    assert len(api.get(WORKSPACE + "?page_size=+7", headers=AS_ADMIN).json()["results"]) == 7


@pytest.mark.parametrize("page", ["2", "last"])
def test_the_last_page_can_be_asked_for_by_name(api: Client, page: str) -> None:
    answer = api.get(WORKSPACE, params={"page": page}, headers=AS_ADMIN)
    assert answer.json()["meta"] == {"page": 2, "next_page": None, "previous_page": 1}
    assert len(answer.json()["results"]) == 1


def test_of_several_pages_the_last_counts(api: Client) -> None:
    assert api.get(WORKSPACE + "?page=7&page=2", headers=AS_ADMIN).json()["meta"]["page"] == 2


@pytest.mark.parametrize("page", ["1", "last", ""])
def test_an_empty_list_has_one_page(api: Client, page: str) -> None:
    answer = api.get(RESOURCE, params={"resource_id": "none", "page": page}, headers=AS_ADMIN)
    assert answer.text == (
        '{"count":0,"next":null,"previous":null,"results":[],"links":{"next":null,"previous":null},'
        '"meta":{"page":1,"next_page":null,"previous_page":null},"total_pages":1}'
    )


def test_an_empty_list_has_no_second_page(api: Client) -> None:
    answer = api.get(RESOURCE, params={"resource_id": "none", "page": "2"}, headers=AS_ADMIN)
    assert (answer.status_code, answer.text) == (404, INVALID_PAGE)


@pytest.mark.parametrize("size", ["0", "-1", "abc", "", "1.5", "-1" + "0" * 30, "\uff15"])
def test_a_page_size_that_is_none_is_the_default(api: Client, size: str) -> None:
    answer = api.get(WORKSPACE, params={"page_size": size}, headers=AS_ADMIN)
    assert (answer.status_code, len(answer.json()["results"]), answer.json()["total_pages"]) == (200, 50, 2)


@pytest.mark.parametrize("size", ["1000", "1001", "1" + "0" * 30, "9" * 5000])
def test_a_page_size_above_the_maximum_is_the_maximum(api: Client, size: str) -> None:
    answer = api.get(WORKSPACE, params={"page_size": size}, headers=AS_ADMIN)
    assert (answer.status_code, len(answer.json()["results"]), answer.json()["total_pages"]) == (200, 51, 1)


# Days


@pytest.mark.parametrize("days", ["x", "1.5", "1 ", "  1", " +1", " -1", "\uff19", "1e3", "0x10", "--1", "+"])
def test_days_must_be_an_integer(api: Client, days: str) -> None:
    answer = api.get(WORKSPACE, params={"days": days}, headers=AS_ADMIN)
    assert (answer.status_code, answer.text) == (400, '{"days":["A valid integer is required."]}')


@pytest.mark.parametrize("days", ["0", "-1", "-0", "-1" + "0" * 30])
def test_days_start_at_one(api: Client, days: str) -> None:
    answer = api.get(WORKSPACE, params={"days": days}, headers=AS_ADMIN)
    assert (answer.status_code, answer.text) == (400, '{"days":["Ensure this value is greater than or equal to 1."]}')


@pytest.mark.parametrize("days", ["", "+5", "090", "1" + "0" * 30, "9" * 5000])
def test_days_may_be_empty_signed_or_huge(api: Client, days: str) -> None:
    answer = api.get(WORKSPACE, params={"days": days}, headers=AS_ADMIN)
    assert (answer.status_code, answer.json()["count"]) == (200, 51)


def test_days_are_given_once(api: Client) -> None:
    answer = api.get(WORKSPACE + "?days=1&days=2", headers=AS_ADMIN)
    assert (answer.status_code, answer.text) == (400, '{"days":["Give this parameter once."]}')


# The resource


@pytest.mark.parametrize("query", ["", "?resource_id=", "?resource_type=document"])
def test_a_resource_id_is_required(api: Client, query: str) -> None:
    answer = api.get(RESOURCE + query, headers=AS_ADMIN)
    assert (answer.status_code, answer.text) == (400, '{"resource_id":["This field is required."]}')


def test_a_resource_id_is_given_once(api: Client) -> None:
    answer = api.get(RESOURCE + "?resource_id=1&resource_id=2", headers=AS_ADMIN)
    assert (answer.status_code, answer.text) == (400, '{"resource_id":["Give this parameter once."]}')


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("resource_id=a%00b", "Null characters are not allowed."),
        ("resource_id=%ff%fe", "This is not valid UTF-8."),
        ("resource_id=%ed%a0%80", "This is not valid UTF-8."),
        ("resource_id=" + "x" * 10_001, "Ensure this field has no more than 10000 characters."),
    ],
)
def test_a_resource_id_that_cannot_be_stored_is_refused(api: Client, query: str, sentence: str) -> None:
    answer = api.get(f"{RESOURCE}?{query}", headers=AS_ADMIN)
    assert (answer.status_code, answer.json()) == (400, {"resource_id": [sentence]})


@pytest.mark.parametrize("resource_id", ["none", "' or true --", "%", "1%", "\u202e", "😀", "x" * 10_000, "%zz"])
def test_an_unknown_resource_has_no_entries(api: Client, resource_id: str) -> None:
    answer = api.get(RESOURCE, params={"resource_id": resource_id}, headers=AS_ADMIN)
    assert (answer.status_code, answer.json()["count"]) == (200, 0)


# Addresses


@pytest.mark.parametrize("path", [WORKSPACE, RESOURCE])
def test_the_last_slash_may_be_left_out(api: Client, path: str) -> None:
    with_slash = api.get(path, params={"resource_id": "1"}, headers=AS_ADMIN)
    without = api.get(path.rstrip("/"), params={"resource_id": "1"}, headers=AS_ADMIN)
    assert (without.status_code, without.text) == (200, with_slash.text)


def test_the_body_of_a_get_is_ignored(api: Client) -> None:
    answer = api.request("GET", WORKSPACE, headers=AS_ADMIN, content=b'{"days": "x"', params={"page_size": 1})
    assert (answer.status_code, answer.json()["count"]) == (200, 51)


@pytest.mark.parametrize(
    "path",
    ["/", "/nothing", "/api/v1/notification/", "/api/v1/notification/nothing/", WORKSPACE + "1/", "/schema", "/schema/",
     "/schema/redoc", "/schema/openapi.yaml", "/%ff%00", "/api/v1/notification/entry/"],
)  # fmt: skip
def test_an_unknown_path_is_not_found(api: Client, path: str) -> None:
    answer = api.get(path, headers=AS_ADMIN)
    assert (answer.status_code, answer.text) == (404, NOT_FOUND)


@pytest.mark.parametrize(
    "entry_id",
    ["x", "1", "%00", "%ff", "01a20056-8580-7000-b12a-50f9a85f5926", "01a2005685807000b12a50f9a85f5926", "{}",
     "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-7fff-bfff-ffffffffffff",
     "9b2e6a52-6f0c-4b52-9d7e-9e1f5b8d7c11"],
)  # fmt: skip
@pytest.mark.parametrize("end", ["", "/", "/changes", "/changes/"])
def test_an_entry_that_is_not_there_is_not_found(api: Client, entry_id: str, end: str) -> None:
    answer = api.get(ENTRY + entry_id + end, headers=AS_ADMIN)
    assert (answer.status_code, answer.text) == (404, NOT_FOUND)


def test_an_address_of_impossible_length_is_refused(api: Client) -> None:
    answer = api.get(f"{WORKSPACE}?q={'x' * 40_000}", headers=AS_ADMIN)
    assert (answer.status_code, answer.text) == (414, '{"detail":"The address is too long."}')


def test_answers_are_json_that_is_not_kept(api: Client) -> None:
    answer = api.get(WORKSPACE, headers=AS_ADMIN)
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


# Health


def test_health_is_told_to_anybody(api: Client) -> None:
    answer = api.get("/healthz")
    assert (answer.status_code, answer.text) == (200, '{"status":"ok"}')


def test_health_tells_that_upkeep_is_late(database: Database, db: psycopg.Connection[object]) -> None:
    db.execute(
        "update audit.upkeep set last_run_at = now() - interval '3 days', installed_at = now() - interval '9 days'"
    )
    with opened(database) as api:
        answer = api.get("/healthz")
    assert (answer.status_code, answer.text) == (503, '{"detail":"The log\'s upkeep is late."}')


# A read that failed is an error, never an empty list

ENDING = """
    select pg_terminate_backend(pid, 5000) from pg_stat_activity
    where application_name = 'daybook serve' and datname = %s"""
UNREADABLE = '{"detail":"The log cannot be read at the moment. Please try again."}'


def test_a_read_that_takes_too_long_is_an_error(database: Database, db: psycopg.Connection[object]) -> None:
    add_keys(db)
    with opened(database, statement_timeout=0.2) as api, database.connect(autocommit=False) as writer:
        writer.execute("lock table audit.entry in access exclusive mode")
        answer = api.get(WORKSPACE, headers=AS_ADMIN)
    assert (answer.status_code, answer.text, answer.headers["Retry-After"]) == (503, UNREADABLE, "5")


def test_an_exhausted_pool_is_an_error(database: Database, db: psycopg.Connection[object]) -> None:
    add_keys(db)
    writer = database.connect(autocommit=False)
    with opened(database, pool_size=1, pool_timeout=0.2) as api, ThreadPoolExecutor() as other:
        writer.execute("lock table audit.entry in access exclusive mode")
        first = other.submit(api.get, WORKSPACE, headers=AS_ADMIN)
        wait_for_a_waiting_read(db)
        second = api.get(WORKSPACE, headers=AS_ADMIN)
        writer.rollback()
    assert (second.status_code, second.text, second.headers["Retry-After"]) == (503, UNREADABLE, "5")
    assert first.result().status_code == 200


def test_a_database_that_is_not_there_is_an_error(filled: Database) -> None:
    with opened(filled, user="nobody_of_this_name", pool_timeout=0.2) as api:
        answers = [api.get(WORKSPACE, headers=AS_ADMIN), api.get("/healthz")]
    assert [(answer.status_code, answer.text) for answer in answers] == [(503, UNREADABLE), (503, UNREADABLE)]


def test_connections_that_the_server_ended_are_replaced(database: Database, db: psycopg.Connection[object]) -> None:
    add_keys(db)
    with opened(database) as api:
        before = api.get(WORKSPACE, headers=AS_ADMIN)
        db.execute(ENDING, [database.name])
        after = api.get(WORKSPACE, headers=AS_ADMIN)
    assert (before.status_code, after.status_code) == (200, 200)


def test_a_database_that_comes_back_is_read_again(server: TestServer, database: Database) -> None:
    add_keys(database.connect())
    elsewhere = Database(server, server.maintenance_dbname).connect()
    with opened(database, pool_timeout=0.2) as api:
        first = api.get(WORKSPACE, headers=AS_ADMIN)
        elsewhere.execute(f"alter database {database.name} allow_connections false")
        elsewhere.execute(ENDING, [database.name])
        second = api.get(WORKSPACE, headers=AS_ADMIN)
        elsewhere.execute(f"alter database {database.name} allow_connections true")
        third = wait_for_an_answer(api, WORKSPACE, AS_ADMIN)
    assert (first.status_code, second.status_code, third.status_code) == (200, 503, 200)


def test_the_unexpected_is_answered_without_a_trace_of_it(database: Database, db: psycopg.Connection[object]) -> None:
    add_keys(db)
    db.execute("alter view audit.timeline rename to timeline_of_old")
    with opened(database) as api:
        answer = api.get(WORKSPACE, headers=AS_ADMIN)
    assert (answer.status_code, answer.text) == (500, '{"detail":"Something went wrong; it has been logged."}')


@pytest.mark.parametrize("part", ["entry_page", "answer_without_memory"])
def test_too_little_memory_is_answered_503(filled: Database, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("daybook.answers.entry_page", fail)
    if part == "answer_without_memory":
        # Not even for the answer that says so.
        monkeypatch.setitem(front.EXCEPTION_HANDLERS, MemoryError, fail)
    with opened(filled) as api:
        answer = api.get(WORKSPACE, headers=AS_ADMIN)
    assert (answer.status_code, answer.text, answer.headers["Retry-After"]) == (503, UNREADABLE, "5")
