"""The timeline of the page: sentences, days, marks, filters as chips and menus, the histogram, paging.

It must not depend on how the page looks.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from daybook import filters, parameters
from daybook.catalogue import read_catalogue
from daybook.sentences import name_row
from tests.conftest import Database
from tests.pages import Node, parsed
from tests.reading import PAGE, Client, add_changes, add_entry, add_keys, opened, signed_in, today
from tests.upkeep import settle

Connection = psycopg.Connection[Any]
SIGNED_IN = signed_in("a")


@pytest.fixture
def web(database: Database, db: Connection) -> Iterator[Client]:
    add_keys(db)
    with opened(database) as client:
        yield client


def page_of(web: Client, address: str = "") -> Node:
    """The main part of a page."""
    answer = web.get(PAGE + address, headers=SIGNED_IN)
    assert answer.status_code == 200, answer.text
    return parsed(answer).only("main")


def lines(page: Node) -> list[str]:
    """The sentences of the timeline."""
    return [line.only("div", class_="what").every("p")[0].text for line in page.every("li", class_="line")]


def chips(page: Node) -> list[str]:
    """The active filters in words."""
    return [chip.every("bdi")[0].text for chip in page.every("ul", class_="chips")[0].every("li")[:-1]]


def recent(db: Connection) -> datetime:
    """A minute ago."""
    return db.execute("select date_trunc('second', now()) - interval '1 minute'").fetchone()[0]  # type: ignore[index,no-any-return]


# Sentences


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"event": "resource_created", "operation": "INSERT"}, "created the document Revenue KPIs"),
        ({"event": "resource_updated"}, "updated the document Revenue KPIs"),
        ({"event": "documentation_updated"}, "updated the documentation of the document Revenue KPIs"),
        (
            {"event": "permission_granted", "context": {"subject": {"id": "7", "name": "Grace Hopper"}}},
            "granted a permission on the document Revenue KPIs to Grace Hopper",
        ),
        (
            {
                "event": "permission_granted",
                "operation": "INSERT",
                "after": {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 6, "level": "edit"},
                "context": {"subject": {"name": "Grace Hopper"}},
            },
            "granted edit on the document Revenue KPIs to Grace Hopper",
        ),
        (
            {"event": "permission_revoked", "operation": "DELETE", "before": {"level": "view"}},
            "revoked view on the document Revenue KPIs",
        ),
        (
            {"event": "permission_changed", "before": {"level": "view"}, "after": {"level": "edit"}},
            "changed a permission on the document Revenue KPIs to edit",
        ),
        ({"event": "permission_revoked"}, "revoked a permission on the document Revenue KPIs"),
        (
            {"event": "role_assigned", "resource_type": "user", "context": {"subject": {"id": "editor"}}},
            "gave the user Revenue KPIs the role editor",
        ),
        ({"event": "role_unassigned", "resource_type": "user"}, "took a role from the user Revenue KPIs"),
        ({"row_count": 1200, "resource_name": None, "resource_id": None}, "updated 1,200 documents"),
        (
            {"event": "resource_deleted", "operation": "TRUNCATE", "row_count": 9, "resource_id": None},
            "deleted all 9 documents",
        ),
        ({"resource_name": None}, "updated the document 1"),
        ({"event": "dashboard_view_exported"}, "exported dashboard view: the document Revenue KPIs"),
        ({"event": "key_created", "resource_type": "audit_log"}, "created the key Revenue KPIs"),
        (
            {"event": "key_created", "resource_type": "audit_log", "context": {"details": {"name": "CI"}}},
            "created the key CI Revenue KPIs",
        ),
    ],
)  # fmt: skip
def test_an_entry_is_a_sentence(web: Client, db: Connection, columns: dict[str, Any], sentence: str) -> None:
    add_entry(db, **{"resource_name": "Revenue KPIs", **columns})
    assert lines(page_of(web)) == [f"Ada Lovelace {sentence}"]


def test_a_deleted_resource_keeps_its_name_and_its_history(web: Client, db: Connection) -> None:
    add_entry(
        db, event="resource_deleted", operation="DELETE", resource_id="7/ü", resource_name="Plan", before={"a": 1}
    )
    [link] = page_of(web).only("li", class_="line").only("div", class_="what").every("a", class_="name")[1:]
    assert (link.text, link["href"]) == ("Plan", "/settings/audit-log/resource?id=7%2F%C3%BC&type=document")


def test_entries_stand_under_their_day(web: Client, db: Connection) -> None:
    add_entry(db, today(hours=-1))
    add_entry(db, today(hours=-25))
    assert [day.text for day in page_of(web).every("h2")] == [
        f"{day:%A}, {day.day} {day:%B %Y}" for day in (today(hours=-1), today(hours=-25))
    ]


def test_a_time_says_how_long_ago_and_exactly_when(web: Client, db: Connection) -> None:
    moment = recent(db)
    entry = add_entry(db, moment)
    when = page_of(web).only("a", class_="when")
    assert when["href"] == f"/settings/audit-log/entry/{entry}"
    assert when["data-tip"] == f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    assert when.only("time")["datetime"] == moment.astimezone(UTC).isoformat()
    assert when.only("span", class_="age").text in ("1 minute ago", "2 minutes ago")


@pytest.mark.parametrize(
    ("actor", "marks"),
    [
        ({}, []),
        ({"actor_type": "service", "actor_name": "Crawler"}, ["service"]),
        ({"actor_type": "system", "actor_id": "system", "actor_name": "system"}, ["system", "login app"]),
    ],
)
def test_who_is_no_user_is_marked(web: Client, db: Connection, actor: dict[str, Any], marks: list[str]) -> None:
    add_entry(db, **actor)
    assert [mark.text for mark in page_of(web).every("span", class_="mark")] == marks


def test_an_update_says_its_columns_in_short(web: Client, db: Connection) -> None:
    add_entry(db, before={"title": "Old", "size": 1}, after={"title": "New", "size": None})
    assert [line.text for line in page_of(web).every("p", class_="summary")] == ["size: 1 → null title: Old → New"]


def test_a_bulk_entry_leads_to_a_page_of_its_rows_and_holds_none(web: Client, db: Connection) -> None:
    bulk = add_entry(db, resource_id=None, row_count=60)
    add_changes(db, bulk, range(1, 61))
    page = page_of(web)
    assert [line.text for line in page.every("p", class_="summary")] == ["See the 60 rows"]
    assert "Document" not in page.text.replace("Documentation", "")


def test_sentences_of_one_s_own_come_from_a_file(database: Database, db: Connection, tmp_path: Path) -> None:
    file = tmp_path / "sentences.toml"
    file.write_text(
        '[sentences]\nreport_exported = "exported {resource}[ as {details.format}][ at {after.rate}| at no rate]"\n'
        '[labels]\nreport_exported = "Report exported by <b>"\n'
    )
    add_keys(db)
    add_entry(
        db, event="report_exported", operation="EVENT", resource_name="KPIs", context={"details": {"format": "pdf"}}
    )
    with opened(database, catalogue=read_catalogue(str(file))) as web:
        page = page_of(web)
    assert lines(page) == ["Ada Lovelace exported the document KPIs as pdf at no rate"]
    [choice] = [option for option in page.every("option") if option["value"] == "report_exported"]
    assert choice.text == "Report exported by <b> (1)"


# Paging


def test_the_pages_are_linked_with_their_filters(web: Client, db: Connection) -> None:
    [add_entry(db, today(hours=-1, seconds=second)) for second in range(51)]
    page = page_of(web, "?user=42&days=7&page=")
    assert page.only("nav", aria_label="Pages").text == "Page 1 of 2 Older →"
    assert page.only("a", rel="next")["href"] == "/settings/audit-log?days=7&page=2&user=42"


# Filters


def test_the_page_takes_the_filters_of_the_lists_and_says_them(web: Client, db: Connection) -> None:
    add_entry(db, resource_name="A", request_id="r-1", event="document_printed")
    add_entry(db, resource_name="B")
    address = "?request_id=r-1&event=document_*,x_made&performer_id=42&q=a&created_after=2026-03-14&days=7"
    page = page_of(web, address)
    assert [text for text in chips(page) if not text.startswith("not before")] == [
        "done by Ada Lovelace",
        "belongs to the request r-1",
        "holds the words a",
        "the event is x_made, document_*",
        "in the last 7 days",
    ]
    assert lines(page) == ["Ada Lovelace printed document: the document A"]


def test_a_filter_is_taken_away_by_its_link(web: Client, db: Connection) -> None:
    add_entry(db)
    chip = page_of(web, "?performer_id=42&type=resource&frame=x&page=1").every("ul", class_="chips")[0].every("li")[0]
    assert chip.only("a")["href"] == "/settings/audit-log?type=resource"
    assert chip.only("a").text.startswith("Remove the filter: done by Ada Lovelace")


def test_without_filters_there_is_nothing_to_take_away(web: Client, db: Connection) -> None:
    add_entry(db)
    assert page_of(web, "?days=90&user=").every("ul", class_="chips") == []


def test_every_filter_of_the_lists_has_a_clause_and_a_sentence() -> None:
    for name in set(parameters.FILTERS) - {"days", "created_after", "created_before", "as_of"}:
        assert filters.FILTERS[name].clause
        assert "{}" in filters.FILTERS[name].sentence


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("?user=42", "A B C"),
        ("?user=Ada+Lovelace", "A B C"),
        ("?user=system", "D"),
        ("?resource=7", "B D"),
        ("?resource=Document+7", "D"),
        ("?resource=B", "B"),
        ("?type=resource", "B D"),
        ("?type=documentation", "A"),
        ("?type=permission", "C"),
        ("?type=upkeep", "E"),
        ("?event=permission_granted", "C"),
        ("?resource_type=document&q=C", "C"),
        ("?days=1", "A B C"),
        ("?user=&resource=&type=&days=90", "A B C D"),
    ],
)
def test_the_four_filters_narrow_the_page(web: Client, db: Connection, query: str, found: str) -> None:
    moment = recent(db)
    add_entry(db, moment, event="documentation_updated", resource_name="A")
    add_entry(db, moment, resource_id="7", resource_name="B")
    add_entry(db, moment, event="permission_granted", resource_name="C")
    bulk = add_entry(db, today(hours=-49), resource_id=None, row_count=2, actor_id="system", actor_name="system")
    add_changes(db, bulk, range(7, 9))
    add_entry(db, today(hours=-49), event="log_viewed", resource_type="audit_log", actor_name="E", actor_id="9")
    marks = {"documentation of the document A": "A", "the document B": "B", "on the document C": "C"}
    marks |= {"updated 2 documents": "D", "E viewed the log": "E"}
    page = " ".join(lines(page_of(web, query)))
    assert " ".join(mark for words, mark in marks.items() if words in page) == found


def test_the_filters_stand_in_their_fields(web: Client, db: Connection) -> None:
    add_entry(db)
    form = page_of(web, "?user=Ada&resource=7&type=role&days=30&q=x&request_id=r&from=2026-03-01").only(
        "form", role="search"
    )
    fields = {field["name"]: field["value"] for field in form.every("input")}
    assert fields == {"user": "Ada", "resource": "7", "q": "x", "request_id": "r", "from": "2026-03-01", "until": ""}
    assert [option["value"] for option in form.every("option") if "selected" in option.attributes] == ["role", "30"]
    assert "open" in form.only("details").attributes


def test_the_menus_offer_what_is_there_with_its_exact_number(web: Client, db: Connection) -> None:
    [add_entry(db, today(hours=-hours)) for hours in (1, 2, 30)]
    add_entry(db, event="dashboard_shared", resource_type="dashboard")
    settle(db)
    # What comes after the counts is counted too.
    add_entry(db, datetime.now(UTC), event="permission_granted")
    options = [option.text for option in page_of(web).every("option")]
    assert options[:6] == [
        "All",
        "Resources (3)",
        "Documentation (0)",
        "Permissions (1)",
        "Roles (0)",
        "Access and upkeep",
    ]
    assert options[11:14] == ["Resource updated (3)", "Dashboard shared (1)", "Permission granted (1)"]
    assert options[15:] == ["document (4)", "dashboard (1)"]


@pytest.mark.parametrize(
    ("query", "first", "last"),
    [("?from={0}&until={0}", -1, -1), ("?from={0}", -1, 0), ("?until={0}", -2, -1)],
)
def test_days_of_one_s_own_are_whole_utc_days(web: Client, db: Connection, query: str, first: int, last: int) -> None:
    for day in (-2, -1):
        add_entry(db, today(hours=24 * day), resource_name=f"first {day}")
        add_entry(db, today(hours=24 * day + 24) - timedelta(microseconds=1), resource_name=f"last {day}")
    page = page_of(web, query.format(today(hours=-24).date()))
    expected = [f"{edge} {day}" for day in range(min(last, -1), first - 1, -1) for edge in ("last", "first")]
    assert lines(page) == [f"Ada Lovelace updated the document {name}" for name in expected]


def test_users_are_chosen_from_a_list_of_all_with_their_numbers(web: Client, db: Connection) -> None:
    [add_entry(db, actor_id=actor, actor_name=name) for actor, name in (("1", "Ada"), ("2", "Bo"), ("2", "Bo"))]
    people = page_of(web, "/people?type=resource").only("ul", class_="people-list").every("li")
    assert [person.text for person in people] == ["Bo 2, 2 entries", "Ada 1, 1 entry"]
    assert people[0].only("a")["href"] == "/settings/audit-log?performer_id=2&type=resource"


@pytest.mark.parametrize(
    ("name", "own", "shown"),
    [
        ("Costs", "web.costs", ("Costs", "web.costs")),
        ("web.costs", "web.costs", ("web.costs", "")),
        (None, "web.costs", ("web.costs", "")),
        (None, None, ("a row without a key", "")),
    ],
)
def test_a_row_of_a_bulk_entry_is_named_once(name: str | None, own: str | None, shown: tuple[str, str]) -> None:
    assert name_row({"resource_name": name, "resource_id": own}) == shown


# Histogram


def test_the_histogram_has_each_day_as_a_bar_and_as_a_row_of_its_table(web: Client, db: Connection) -> None:
    [add_entry(db, today(hours=-hours)) for hours in (1, 2, 25)]
    add_entry(db, today(hours=-3), event="role_assigned")
    settle(db)
    yesterday, before = (today(hours=-24 * days).date() for days in (1, 2))
    histogram = page_of(web).only("figure")
    assert [day.only("title").text for day in histogram.only("svg").every("a")] == [
        f"{before:%a} {before.day} {before:%b}: 1 entry",
        f"{yesterday:%a} {yesterday.day} {yesterday:%b}: 3 entries",
    ]
    assert [row.text for row in histogram.every("tr")] == [
        "Day (UTC) Entries Resources Roles",
        f"{yesterday} 3 2 1",
        f"{before} 1 1 0",
    ]
    assert [path["class"] for path in histogram.every("path")] == ["resource", "role"]
    assert histogram.only("figcaption").text.startswith("4 entries in 90 days")


def test_a_day_of_the_histogram_keeps_the_other_filters(web: Client, db: Connection) -> None:
    add_entry(db)
    add_entry(db, event="role_assigned")
    day = today(hours=-24).date()
    histogram = page_of(web, "?type=role&days=7&frame=none").only("figure")
    address = f"/settings/audit-log?frame=none&from={day}&type=role&until={day}"
    assert [link["href"] for link in histogram.every("a")] == [address, address]
    assert [row.text for row in histogram.every("tr")] == ["Day (UTC) Entries Roles", f"{day} 1 1"]


@pytest.mark.parametrize(
    "query", ["?resource=7", "?q=Seven", "?request_id=r-7", "?performer_id=7", "?resource_type=seven"]
)
def test_the_histogram_and_the_count_are_of_what_is_asked_for(web: Client, db: Connection, query: str) -> None:
    mine = {
        "resource_id": "7",
        "resource_name": "Seven",
        "request_id": "r-7",
        "actor_id": "7",
        "resource_type": "seven",
    }
    add_entry(db, today(hours=-1), **mine)
    add_entry(db, today(hours=-30), **mine)
    add_entry(db)
    page = page_of(web, query)
    assert [row.every("td")[0].text for row in page.only("figure").every("tr")[1:]] == ["1", "1"]
    assert page.only("p", role="status").text.startswith("2 entries match, newest first.")


def test_reading_the_log_is_in_no_number(web: Client, db: Connection) -> None:
    add_entry(db, event="log_viewed", resource_type="audit_log")
    settle(db)
    add_entry(db, datetime.now(UTC))
    page = page_of(web)
    assert page.only("figcaption").text.startswith("1 entry in 90 days")
    assert page.only("p", role="status").text.startswith("1 entry, newest first.")
