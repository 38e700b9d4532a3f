"""An entry's page: values, context, links, rows a page at a time, JSON; exports; embedding, prefix, assets, banners.

It must not depend on how the page looks.
"""

import gzip
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote_plus

import psycopg
import pytest

from daybook.upkeep import maintain
from tests.conftest import Database
from tests.pages import Node, parsed
from tests.reading import PAGE, Client, add_changes, add_entry, add_keys, opened, signed_in, today

Connection = psycopg.Connection[Any]
SIGNED_IN = signed_in("a")
HOSTILE = "\"><img src=x onerror=alert(1)>'&<b>\u202e\u0007"


@pytest.fixture
def web(database: Database, db: Connection) -> Iterator[Client]:
    add_keys(db)
    with opened(database) as client:
        yield client


def page_of(web: Client, address: str = "", status: int = 200) -> Node:
    """The main part of a page."""
    answer = web.get(PAGE + address, headers=SIGNED_IN)
    assert answer.status_code == status, answer.text
    return parsed(answer).only("main")


def rows(node: Node) -> list[list[str]]:
    """The cells of the tables within."""
    return [[cell.text for cell in row.children if isinstance(cell, Node)] for row in node.every("tr")]


def facts(page: Node) -> dict[str, str]:
    """What is said of an entry beside its values."""
    names, texts = (page.only("dl", class_="facts").every(tag) for tag in ("dt", "dd"))
    return {name.text: text.text for name, text in zip(names, texts, strict=True)}


# An entry


def test_an_entry_tells_its_columns_before_and_after(web: Client, db: Connection) -> None:
    values = {"title": "New", "size": None, "note": "", "secret": {"redacted": True}, "tags": ["a", "c"]}
    entry = add_entry(db, before={"title": "Old", "size": 1, "secret": {"redacted": True}, "tags": ["a"]}, after=values)
    assert rows(page_of(web, f"/entry/{entry}")) == [
        ["Column", "Before", "After"],
        ["note", "nothing", "empty text"],
        ["secret", "redacted", "redacted"],
        ["size", "1", "null"],
        ["tags", "added: c 1 unchanged"],
        ["title", "Old", "New"],
    ]


def test_an_entry_tells_its_context_as_far_as_there_is_any(web: Client, db: Connection) -> None:
    context = {"reason": "as asked", "ip": "10.0.0.7", "user_agent": "x/1", "metadata": {"job": 7}}
    entry = add_entry(db, request_id="r-1", row_key="9", context=context, before={"a": 1}, after={"a": 2})
    assert facts(page_of(web, f"/entry/{entry}")) == {
        "Done by": "Ada Lovelace (42), user",
        "Reason": "as asked",
        "Request": "r-1",
        "IP address": "10.0.0.7",
        "User agent": "x/1",
        "Metadata": '{"job": 7}',
        "Event": "resource_updated",
        "Table": "public.document",
        "Row": "9",
        "Rows changed": "1",
        "Database login": "app",
        "Transaction": "1234",
        "Entry": entry,
    }


def test_an_entry_leads_to_what_else_there_is(web: Client, db: Connection) -> None:
    entry = add_entry(db, request_id="r 1", resource_id="7", resource_name="Plan")
    links = page_of(web, f"/entry/{entry}").only("ul", class_="links").every("a")
    assert [(link.text, link["href"].removeprefix("/settings/audit-log")) for link in links] == [
        ("Everything in the same request", "?request_id=r+1"),
        ("Everything by Ada Lovelace", "?performer_id=42"),
        ("History of Plan", "/resource?id=7&type=document"),
        ("Permalink", f"/entry/{entry}"),
        ("JSON", f"/entry/{entry}/json"),
    ]


def test_an_entry_as_json_is_that_of_the_api(web: Client, db: Connection) -> None:
    entry = add_entry(db, before={"n": 1}, after={"n": 2}, context={"reason": "x"})
    answer = web.get(f"{PAGE}/entry/{entry}/json", headers=SIGNED_IN)
    body = json.loads(answer.text)
    assert (answer.headers["Content-Type"], answer.headers["Cache-Control"]) == ("application/json", "no-store")
    assert (body["id"], body["changes"]["rows"][0]["after"], body["context"]["reason"]) == (entry, {"n": 2}, "x")


@pytest.mark.parametrize("rest", ["", "/json"])
def test_an_entry_of_another_workspace_is_not_there(web: Client, db: Connection, rest: str) -> None:
    entry = add_entry(db, resource_name="S3CRET")
    answer = web.get(f"{PAGE}/entry/{entry}{rest}", headers=signed_in("s"))
    assert (answer.status_code, "S3CRET" in answer.text, "There is no such entry" in answer.text) == (404, False, True)


def test_an_entry_past_retention_is_no_longer_kept(web: Client, db: Connection) -> None:
    entry = add_entry(db, today(hours=-24 * 92))
    assert "This entry is older than what the log keeps." in page_of(web, f"/entry/{entry}", 404).text


@pytest.mark.parametrize(("rows_there", "said"), [(1, "the only document"), (9, "all 9 documents")])
def test_a_truncate_says_that_its_rows_are_gone(web: Client, db: Connection, rows_there: int, said: str) -> None:
    entry = add_entry(db, operation="TRUNCATE", row_count=rows_there, resource_id=None, event="resource_deleted")
    page = page_of(web, f"/entry/{entry}")
    assert page.only("h1").text == f"Ada Lovelace deleted {said}"
    assert "No rows were kept for this entry" in page.text


def test_an_event_says_that_it_has_no_values(web: Client, db: Connection) -> None:
    entry = add_entry(db, operation="EVENT", event="report_exported", context={"details": {"format": "pdf"}})
    page = page_of(web, f"/entry/{entry}")
    assert "This entry has no values" in page.text
    assert facts(page)["Recorded with it"] == '{"format": "pdf"}'


def test_the_rows_of_a_bulk_entry_are_paged(web: Client, db: Connection) -> None:
    bulk = add_entry(db, resource_id=None, row_count=60)
    add_changes(db, bulk, range(1, 61))
    first, second = page_of(web, f"/entry/{bulk}"), page_of(web, f"/entry/{bulk}?page=2")
    assert [row.only("h2").text for row in first.every("section", class_="row")][:2] == ["Document 1 1", "Document 2 2"]
    assert rows(second.every("section", class_="row")[-1])[1] == ["size", "60", "61"]
    assert "60 rows, these are 51 to 60." in second.text
    assert first.only("a", rel="next")["href"] == f"/settings/audit-log/entry/{bulk}?page=2"
    assert first.every("section", class_="row")[0].only("a")["href"].endswith("/resource?id=1&type=document")


def test_a_megabyte_is_folded(web: Client, db: Connection) -> None:
    entry = add_entry(db, after={"a": "x" * 1_000_000, "b": {"cut": True, "bytes": 5, "sha256": "ab"}})
    page = page_of(web, f"/entry/{entry}")
    assert len(page.only("details", class_="fold").raw) < 12_000
    assert "… 990,000 more characters, in the entry's JSON" in page.text
    assert "too long to be kept: 5 bytes, SHA-256 ab" in page.text


# Hostile text, in every state that shows a text of the log or the address


@pytest.mark.parametrize(
    "address",
    [
        *("", "?days=7&type=resource", "/entry/{0}", "/entry/{1}", "/people", "/export?user=42"),
        *("/resource?type={2}&id={2}", "?{2}={2}&user={2}&q={2}&days={2}", "?user={2}&q=nothing{2}&resource_type={2}"),
        "/export?user={2}&type={2}",
    ],
)
def test_hostile_text_does_nothing_anywhere(web: Client, db: Connection, address: str) -> None:
    hostile: dict[str, Any] = dict.fromkeys(("resource_id", "resource_name", "resource_type", "actor_name"), HOSTILE)
    context = {"reason": HOSTILE, "subject": {"name": HOSTILE}, "metadata": HOSTILE, "details": {HOSTILE: HOSTILE}}
    one = add_entry(
        db, **hostile, before={HOSTILE: HOSTILE}, after={HOSTILE: [HOSTILE]}, request_id=HOSTILE, context=context
    )
    bulk = add_entry(db, **{**hostile, "resource_id": None}, row_count=2, context=context)
    add_changes(db, bulk, range(1, 3))
    answer = web.get(PAGE + address.format(one, bulk, quote_plus(HOSTILE)), headers=SIGNED_IN)
    assert answer.status_code in (200, 400)
    page = parsed(answer)
    assert {node.tag for node in page.walk()} & {"img", "b", "iframe", "style"} == set()
    assert [node.tag for node in page.walk() for name in node.attributes if name.startswith("on")] == []
    assert ("\u202e" in page.text, "\u0007" in page.text) == (False, False)
    assert [node["src"] for node in page.every("script")] == [
        link
        for link in [node["src"] for node in page.every("script")]
        if link.startswith("/settings/audit-log/assets/")
    ]


@pytest.mark.parametrize("path", ["", "/people", "/export", "/resource?type=document&id=1"])
@pytest.mark.parametrize("letter", ["s", "m", ""])
def test_who_may_not_see_it_gets_no_data(web: Client, db: Connection, path: str, letter: str) -> None:
    add_entry(db, resource_name="S3CRET", actor_name="S3CRET", actor_id="S3CRET", resource_type="S3CRET")
    answer = web.get(PAGE + path, headers=signed_in(letter) if letter else {})
    assert (answer.status_code, "S3CRET" in answer.text) == ({"s": 200, "m": 403, "": 303}[letter], False)


# States


@pytest.mark.parametrize(
    ("query", "status", "heading", "advice"),
    [
        ("", 200, "Nothing has been logged yet", "select audit.enable_tracking('document') starts it"),
        ("?user=nobody", 200, "Nothing matches these filters", "Take one of them away above"),
        ("?from=2020-01-01&until=2020-01-02", 200, "No longer kept", "Show what is kept"),
        ("?page=2", 404, "No such page", "Go back to its first page."),
        ("/resource?type=document&id=none", 200, "Nothing is known of it", "The log keeps 90 days."),
        ("/resource?type=document", 404, "Not found", "Check the address."),
        ("/entry/x", 404, "Not found", "Check the address."),
    ],
)
def test_each_state_says_what_it_is_and_what_to_do(
    web: Client, query: str, status: int, heading: str, advice: str
) -> None:
    page = page_of(web, query, status)
    assert heading in [node.text for node in page.walk() if node.tag in ("h1", "h2")]
    assert advice in page.text


def test_days_before_retention_are_said_to_be_gone(web: Client, db: Connection) -> None:
    add_entry(db)
    assert "are no longer kept: the log keeps 90 days." in page_of(web, "?from=2020-01-01").text


@pytest.mark.parametrize(
    "query",
    ["from=2026-02-30", "until=x", "from=2026-03-02&until=2026-03-01", "type=role&event=x_made", "from=0001-01-01"],
)
def test_days_that_cannot_be_are_named(web: Client, query: str) -> None:
    assert "These filters cannot be read:" in page_of(web, "?" + query, 400).text


def test_a_banner_says_that_upkeep_is_late_and_what_to_run(database: Database, db: Connection) -> None:
    add_keys(db)
    db.execute("update audit.upkeep set last_run_at = now() - interval '3 days'")
    with opened(database) as web:
        banner = page_of(web).only("div", class_="banner")
    assert (banner.only("strong").text, banner.only("code").text) == ("The log's upkeep is late.", "daybook maintain")


def test_a_banner_says_that_a_table_is_bypassed_without_naming_it(database: Database, db: Connection) -> None:
    add_keys(db)
    db.execute("create table s3cret (id integer primary key, workspace_id text)")
    db.execute("select audit.enable_tracking('s3cret')")
    db.execute("alter table s3cret disable trigger audit_insert")
    maintain(database.url("maintainer"))
    with opened(database) as web:
        page = page_of(web)
    banner = page.only("div", class_="banner")
    assert banner.only("strong").text == "A tracked table can be changed past the log."
    assert (banner.only("code").text, "s3cret" in page.text) == ("daybook status", False)


def test_a_banner_says_that_the_last_verification_found_something(database: Database, db: Connection) -> None:
    add_keys(db)
    for misfits in (1, 0):
        db.execute("select audit.note_verification(now(), now(), 1, 1, %s, '[]')", [misfits])
        with opened(database) as web:
            said = [(banner.only("strong").text, banner.only("code").text) for banner in banners_of(web)]
        assert said == [("The log does not fit its seals.", "daybook verify")] * misfits


def banners_of(web: Client) -> list[Node]:
    return page_of(web).every("div", class_="banner")


def test_a_log_that_is_well_has_no_banner(web: Client) -> None:
    assert page_of(web).every("div", class_="banner") == []


# Exports


def test_an_export_says_first_how_many_entries_by_which_filters(web: Client, db: Connection) -> None:
    [add_entry(db, actor_id=actor) for actor in ("1", "2", "2")]
    page = page_of(web, "/export?performer_id=2&page=3")
    assert page.only("p", class_="lead").text.startswith("2 entries, since ")
    assert [chip.every("bdi")[0].text for chip in page.only("ul", class_="chips").every("li")[:-1]] == ["done by 2"]
    assert [link["href"] for link in page.only("ul", class_="files").every("a")] == [
        "/settings/audit-log/export.csv?performer_id=2",
        "/settings/audit-log/export.ndjson?performer_id=2",
        "/settings/audit-log/export.ndjson?expand=changes&performer_id=2",
    ]


@pytest.mark.parametrize("kind", ["csv", "ndjson"])
def test_an_export_holds_what_the_page_shows_and_is_recorded_with_its_filters(
    web: Client, db: Connection, kind: str
) -> None:
    add_entry(db, resource_name="Mine", resource_id="7")
    add_entry(db, resource_name="Other")
    answer = web.get(f"{PAGE}/export.{kind}?resource=Mine&frame=none", headers=SIGNED_IN)
    text = gzip.decompress(answer.content).decode() if answer.content[:2] == b"\x1f\x8b" else answer.text
    assert (text.count('"7"') + text.count(",7,"), answer.headers["Content-Disposition"]) == (
        1,
        f'attachment; filename="audit-log.{kind}"',
    )
    recorded = db.execute("select context -> 'details' from audit.timeline where event = 'log_exported'").fetchone()
    assert recorded == ({"filter": {"resource": ["Mine"]}, "row_count": 1},)


# Frame, prefix, files


def test_embedded_the_page_has_no_header_and_every_link_stays_so(database: Database, db: Connection) -> None:
    add_keys(db)
    add_entry(db)
    with opened(database, frame_ancestors="'self' https://app.example") as web:
        answer = web.get(PAGE + "?frame=none&type=resource", headers=SIGNED_IN)
    page = parsed(answer)
    assert page.every("header") == []
    assert [link["href"] for link in page.only("main").every("a") if "frame=none" not in link["href"]] == []
    assert page.only("input", name="frame")["value"] == "none"
    assert "; frame-ancestors 'self' https://app.example;" in answer.headers["Content-Security-Policy"]


def test_below_a_path_every_link_and_the_cookie_begin_with_it(database: Database, db: Connection) -> None:
    add_keys(db)
    add_entry(db, row_count=2, resource_id=None)
    with opened(database, public_url="https://tools.example/audit") as web:
        answer = web.get(PAGE + "?days=7", headers=SIGNED_IN)
        signed = web.post(PAGE + "/sign-in", data={"key": "daybook_" + "a" * 43})
    page = parsed(answer)
    addresses = [node.attributes.get(name) for node in page.walk() for name in ("href", "src", "action")]
    beginnings = {
        address.partition("?")[0].removeprefix("/audit/settings/audit-log")[:8] for address in addresses if address
    }
    assert beginnings == {"", "#content", "/assets/", "/sign-ou", "/people", "/export", "/entry/0"}
    assert signed.headers["Location"] == "/audit/settings/audit-log"
    assert "; Path=/audit/settings/audit-log;" in signed.headers["Set-Cookie"]


def test_the_files_of_a_page_are_kept_for_ever_under_the_name_of_their_content(web: Client) -> None:
    page = parsed(web.get(PAGE + "/sign-in"))
    names = [
        node.attributes.get("href") or node["src"]
        for node in page.only("head").walk()
        if node.tag in ("link", "script")
    ]
    answers = [web.get(name) for name in names]
    assert [(answer.status_code, answer.headers["Content-Type"]) for answer in answers] == [
        (200, "image/svg+xml"),
        (200, "text/css; charset=utf-8"),
        (200, "text/javascript; charset=utf-8"),
    ]
    assert {answer.headers["Cache-Control"] for answer in answers} == {"public, max-age=31536000, immutable"}
    assert web.get(PAGE + "/assets/daybook.0000000000000000.css").status_code == 404


def test_a_first_visit_is_at_most_sixty_kilobytes_compressed(web: Client, db: Connection) -> None:
    for number in range(90):
        add_entry(
            db, today(hours=-24 * (number % 85)), resource_id=str(number), resource_name=f"Document number {number}"
        )
    page = web.get(PAGE, headers=SIGNED_IN)
    head = parsed(page).only("head")
    names = [node.attributes.get("href") or node["src"] for node in head.every("link") + head.every("script")]
    answers = [page, *(web.get(name) for name in names)]
    assert {answer.headers["Content-Encoding"] for answer in answers} == {"gzip"}
    assert sum(int(answer.headers["Content-Length"]) for answer in answers) < 60 * 1024


def test_who_takes_no_gzip_gets_none(web: Client) -> None:
    plain = {"Accept-Encoding": "identity"}
    page = web.get(PAGE + "/sign-in", headers=plain)
    script = web.get(parsed(page).only("script")["src"], headers=plain)
    assert [answer.headers.get("Content-Encoding") for answer in (page, script)] == [None, None]
    assert [answer.headers["Vary"] for answer in (page, script)] == ["Accept-Encoding", "Accept-Encoding"]
