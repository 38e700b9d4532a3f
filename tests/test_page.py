"""The plain page at /settings/audit-log: signing in, sentences, filters, paging, its states, and hostile text.

It must not depend on how the page looks.
"""

import html
import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.conftest import Database
from tests.reading import (
    ADMIN,
    MEMBER,
    PAGE,
    Client,
    add_entry,
    add_key,
    add_keys,
    add_session,
    key_for,
    opened,
    signed_in,
)

Connection = psycopg.Connection[Any]
SIGNED_IN = signed_in("a")


@pytest.fixture
def web(database: Database, db: Connection) -> Iterator[Client]:
    add_keys(db)
    with opened(database) as client:
        yield client


def text_of(web: Client, address: str = "") -> str:
    """The words of a page, as a reader without style sheets gets them."""
    answer = web.get(PAGE + address, headers=SIGNED_IN)
    assert answer.status_code == 200, answer.text
    return words(answer.text)


def words(page: str) -> str:
    """The words of a page's main part, without its tags."""
    main = page.partition('<main id="content">')[2].partition("</main>")[0]
    return re.sub(
        r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", "", re.sub(r"<select.*?</select>", "", main, flags=re.S)))
    )


# Signing in


def test_who_is_not_signed_in_is_asked_to(web: Client) -> None:
    answer = web.get(PAGE + "?days=7&user=Ada")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/settings/audit-log/sign-in?days=7&user=Ada")


def test_signing_in_opens_a_session_that_no_script_and_no_other_site_gets(web: Client) -> None:
    answer = web.post(PAGE + "/sign-in", data={"key": f" {ADMIN}\n", "back": "days=7&user=Ada"})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/settings/audit-log?days=7&user=Ada")
    assert re.fullmatch(
        r"daybook_session=[A-Za-z0-9_-]{43}; HttpOnly; Path=/settings/audit-log; SameSite=Strict",
        answer.headers["Set-Cookie"],
    )
    web.cookies.clear()
    assert web.get(PAGE, headers={"Cookie": answer.headers["Set-Cookie"].partition(";")[0]}).status_code == 200


def test_the_cookie_is_for_https_alone_where_the_page_is(database: Database, db: Connection) -> None:
    add_keys(db)
    with opened(database, public_url="https://audit.example") as web:
        answer = web.post(PAGE + "/sign-in", data={"key": ADMIN})
    assert "; Secure" in answer.headers["Set-Cookie"]


def test_where_to_go_after_signing_in_is_never_another_site(web: Client) -> None:
    answer = web.post(PAGE + "/sign-in", data={"key": ADMIN, "back": "//evil.example/\r\nX: y"})
    assert answer.headers["Location"] == "/settings/audit-log?%2F%2Fevil.example%2F%0D%0AX%3A+y="


@pytest.mark.parametrize("key", [key_for("u"), "", "x", "<script>"])
def test_a_wrong_key_is_refused_with_a_sentence(web: Client, key: str) -> None:
    answer = web.post(PAGE + "/sign-in", data={"key": key})
    assert (answer.status_code, "Set-Cookie" in answer.headers) == (403, False)
    assert "This key is not valid." in words(answer.text)


def test_a_member_is_told_that_his_role_does_not_read(web: Client) -> None:
    answer = web.post(PAGE + "/sign-in", data={"key": MEMBER})
    assert (answer.status_code, "Set-Cookie" in answer.headers) == (403, False)
    assert "This key's role may not read the audit log." in words(answer.text)


def test_a_member_s_cookie_does_not_read_either(web: Client) -> None:
    answer = web.get(PAGE, headers=signed_in("m"))
    assert answer.status_code == 403
    assert "Not allowed This key's role may not read the audit log." in words(answer.text)


def test_a_revoked_key_is_signed_out_with_the_next_request(web: Client, db: Connection) -> None:
    db.execute("select audit.revoke_key('aaaaaaaa')")
    assert web.get(PAGE, headers=SIGNED_IN).headers["Location"] == "/settings/audit-log/sign-in"


def test_an_expired_key_ends_its_sessions(web: Client, db: Connection) -> None:
    db.execute("update audit.api_key set expires_at = now() where prefix = 'aaaaaaaa'")
    assert web.get(PAGE, headers=SIGNED_IN).headers["Location"] == "/settings/audit-log/sign-in"


def test_a_session_ends_by_itself(web: Client, db: Connection) -> None:
    assert web.get(PAGE, headers=SIGNED_IN).status_code == 200
    db.execute("update audit.page_session set ends_at = now()")
    assert web.get(PAGE, headers=SIGNED_IN).headers["Location"] == "/settings/audit-log/sign-in"


def test_a_session_of_the_page_is_no_key_and_a_key_no_session(web: Client) -> None:
    as_bearer = web.get("/api/v1/notification/workspace/", headers={"Authorization": "Bearer " + "a" * 43})
    as_cookie = web.get(PAGE, headers={"Cookie": f"daybook_session={ADMIN}"})
    assert (as_bearer.status_code, as_cookie.status_code) == (401, 303)


def test_a_key_has_twenty_sessions_at_most(web: Client, db: Connection) -> None:
    for _ in range(21):
        web.post(PAGE + "/sign-in", data={"key": ADMIN})
    assert db.execute("select count(*) from audit.page_session where key_prefix = 'aaaaaaaa'").fetchall() == [(20,)]
    assert web.get(PAGE, headers=SIGNED_IN).status_code == 303


def test_a_session_lasts_twelve_hours_and_never_longer_than_its_key(web: Client, db: Connection) -> None:
    web.post(PAGE + "/sign-in", data={"key": ADMIN})
    db.execute("update audit.api_key set expires_at = now() + '1 hour' where prefix = 'aaaaaaaa'")
    web.post(PAGE + "/sign-in", data={"key": ADMIN})
    lasting = "select round(extract(epoch from ends_at - opened_at) / 3600)::integer from audit.page_session"
    assert db.execute(
        f"{lasting} where key_prefix = 'aaaaaaaa' order by opened_at desc limit 2".encode()
    ).fetchall() == [
        (1,),
        (12,),
    ]


def test_the_database_knows_a_session_by_its_digest_alone(web: Client, db: Connection) -> None:
    answer = web.post(PAGE + "/sign-in", data={"key": ADMIN})
    session = answer.headers["Set-Cookie"][16:59]
    stored = str(db.execute("select * from audit.page_session").fetchall())
    assert (session[:8] in stored, session in stored, ADMIN in stored) == (True, False, False)


def test_signing_out_ends_the_session_in_the_database_too(web: Client) -> None:
    web.post(PAGE + "/sign-out", headers=SIGNED_IN)
    assert web.get(PAGE, headers=SIGNED_IN).headers["Location"] == "/settings/audit-log/sign-in"


@pytest.mark.parametrize("session", ["", "x", "a" * 42, "daybook_" + "a" * 43, "a" * 8 + "b" * 35])
def test_who_signs_out_without_a_session_is_signed_out(web: Client, session: str) -> None:
    answer = web.post(PAGE + "/sign-out", headers={"Cookie": f"daybook_session={session}"})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/settings/audit-log/sign-in")
    assert web.get(PAGE, headers=SIGNED_IN).status_code == 200


def test_signing_out_forgets_the_session(web: Client) -> None:
    answer = web.post(PAGE + "/sign-out", headers=SIGNED_IN)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/settings/audit-log/sign-in")
    assert answer.headers["Set-Cookie"].startswith('daybook_session=""; HttpOnly; Max-Age=0; Path=/settings/audit-log;')


@pytest.mark.parametrize(
    "headers", [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://evil.example"}, {"Origin": "null"}]
)
@pytest.mark.parametrize("path", ["/sign-in", "/sign-out"])
def test_a_form_that_another_site_sends_is_refused(web: Client, headers: dict[str, str], path: str) -> None:
    answer = web.post(PAGE + path, data={"key": ADMIN}, headers=headers)
    assert (answer.status_code, "Set-Cookie" in answer.headers) == (403, False)
    assert "This form was sent from another site, so nothing was done." in words(answer.text)


@pytest.mark.parametrize("headers", [{"Sec-Fetch-Site": "same-origin"}, {"Origin": "http://log.example"}])
def test_the_page_s_own_form_is_taken(web: Client, headers: dict[str, str]) -> None:
    assert web.post(PAGE + "/sign-in", data={"key": ADMIN}, headers=headers).status_code == 303


def test_a_form_of_impossible_size_is_refused(web: Client) -> None:
    answer = web.post(PAGE + "/sign-in", data={"key": "x" * 100_000})
    assert (answer.status_code, list(answer.json())) == (413, ["detail"])


def test_there_is_nothing_to_get_where_one_signs_out(web: Client) -> None:
    answer = web.get(PAGE + "/sign-out")
    assert (answer.status_code, answer.text) == (405, '{"detail":"Method \\"GET\\" not allowed."}')
    assert answer.headers["Allow"] == "OPTIONS, POST"


# What it says


def test_a_page_runs_no_script_of_its_own_and_loads_nothing_from_elsewhere(web: Client) -> None:
    answer = web.get(PAGE, headers=SIGNED_IN)
    assert answer.headers["Content-Security-Policy"] == (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    )
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert re.findall(r"<script(?! src=)|<style|\sstyle=|\son[a-z]+=|https?:", answer.text) == []


def test_an_entry_of_another_workspace_is_not_found(web: Client, db: Connection) -> None:
    entry = add_entry(db)
    answer = web.get(f"{PAGE}/entry/{entry}", headers=signed_in("s"))
    assert (answer.status_code, "There is no such entry" in words(answer.text)) == (404, True)


# States


def test_an_empty_log_says_so(web: Client) -> None:
    assert "Nothing has been logged yet" in text_of(web)


def test_filters_that_match_nothing_say_so(web: Client, db: Connection) -> None:
    add_entry(db)
    assert "Nothing matches these filters" in text_of(web, "?user=nobody")


@pytest.mark.parametrize("query", ["days=x", "type=everything", "user=a%00b", "resource=%ff"])
def test_filters_that_cannot_be_read_are_named(web: Client, query: str) -> None:
    answer = web.get(f"{PAGE}?{query}", headers=SIGNED_IN)
    assert (answer.status_code, "These filters cannot be read:" in words(answer.text)) == (400, True)


def test_a_page_past_the_end_is_not_found(web: Client) -> None:
    answer = web.get(PAGE + "?page=2", headers=SIGNED_IN)
    assert (answer.status_code, "The list ends before this page." in words(answer.text)) == (404, True)


def test_a_log_that_cannot_be_read_is_no_empty_page(database: Database, db: Connection) -> None:
    add_keys(db)
    with opened(database, statement_timeout=0.2) as web, database.connect(autocommit=False) as writer:
        writer.execute("lock table audit.entry in access exclusive mode")
        answer = web.get(PAGE, headers=SIGNED_IN)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert "Could not read The log cannot be read at the moment." in words(answer.text)


def test_too_little_memory_is_a_page_too(database: Database, db: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    add_keys(db)
    monkeypatch.setattr("daybook.page.timeline.write_menus", fail)
    with opened(database) as web:
        answer = web.get(PAGE, headers=SIGNED_IN)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert "Could not read The log cannot be read at the moment." in words(answer.text)


def test_the_unexpected_is_shown_without_a_trace_of_it(database: Database, db: Connection) -> None:
    add_keys(db)
    db.execute("alter view audit.timeline rename to timeline_of_old")
    with opened(database) as web:
        answer = web.get(PAGE, headers=SIGNED_IN)
    assert (answer.status_code, "timeline_of_old" in answer.text) == (500, False)
    assert "Something went wrong; it has been logged." in words(answer.text)


# Every value from the log is hostile text

HOSTILE = "\"><img src=x onerror=alert(1)>'&<b>"


def test_markup_in_the_log_is_text_on_the_page(web: Client, db: Connection) -> None:
    add_key(db, key_for("h"), HOSTILE, "admin")
    entry = add_entry(
        db,
        workspace_id=HOSTILE,
        resource_id=HOSTILE,
        resource_name=HOSTILE,
        resource_type=HOSTILE,
        event="x_" + "y" * 20,
        actor_id=HOSTILE,
        actor_name=HOSTILE,
        before={HOSTILE: HOSTILE},
        after={HOSTILE: {HOSTILE: [HOSTILE]}},
        context={"reason": HOSTILE, "subject": {"id": HOSTILE, "name": HOSTILE}},
    )
    add_session(db, "h")
    pages = web.get(PAGE, headers=signed_in("h")).text + web.get(f"{PAGE}/entry/{entry}", headers=signed_in("h")).text
    assert "&lt;img src=x onerror=alert(1)&gt;" in pages
    assert re.findall(r"<img|<b>", pages) == []


def test_markup_in_the_address_is_text_on_the_page(web: Client) -> None:
    page = web.get(PAGE, params={"user": HOSTILE, "resource": HOSTILE, HOSTILE: HOSTILE}, headers=SIGNED_IN).text
    assert re.findall(r"<img|<b>", page) == []
    page = web.get(PAGE + "/sign-in", params={"user": HOSTILE}).text
    assert re.findall(r"<img|<b>", page) == []


def test_characters_that_deceive_the_eye_are_written_out(web: Client, db: Connection) -> None:
    add_entry(db, resource_name="invoice\u202efdp.exe\u0007\u2066", actor_name="A\u200bda")
    page = text_of(web)
    assert "A⟦U+200B⟧da updated the document invoice⟦U+202E⟧fdp.exe⟦U+0007⟧⟦U+2066⟧" in page


def test_a_megabyte_in_one_field_makes_no_megabyte_page(web: Client, db: Connection) -> None:
    big = "x" * 1_000_000
    add_entry(
        db,
        resource_id="x" * 2000,
        resource_name=big,
        actor_id=big,
        actor_name=big,
        after={big: big, "b": big},
        context={"reason": big},
    )
    assert len(web.get(PAGE, headers=SIGNED_IN).text) < 20_000


def test_values_of_any_depth_are_shown(web: Client, db: Connection) -> None:
    db.execute("set max_stack_depth = '2MB'")
    deep = "[" * 3000 + "]" * 3000
    entry = add_entry(db, after={"a": 1})
    db.execute("alter table audit.entry disable trigger entry_is_never_altered")
    db.execute("update audit.entry set after = jsonb_build_object('deep', %s::jsonb) where id = %s", [deep, entry])
    assert "[" * 3000 + "]" * 3000 in text_of(web, f"/entry/{entry}")
