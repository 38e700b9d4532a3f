"""A resource's page: what touched it, and what it was at each moment, from its entries alone.

The expected states are those of the rows as the statements below leave them.
"""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.conftest import Database
from tests.pages import Node, parsed
from tests.reading import PAGE, Client, add_changes, add_entry, add_keys, opened, signed_in, today

Connection = psycopg.Connection[Any]
SIGNED_IN = signed_in("a")


@pytest.fixture
def web(database: Database, db: Connection) -> Iterator[Client]:
    add_keys(db)
    with opened(database) as client:
        yield client


def page_of(web: Client, address: str) -> Node:
    """The main part of a resource's page."""
    answer = web.get(f"{PAGE}/resource?type=document&{address}", headers=SIGNED_IN)
    assert answer.status_code == 200, answer.text
    return parsed(answer).only("main")


def state(page: Node) -> dict[str, str]:
    """The columns and values of the resource's own row."""
    cells = [[cell.text for cell in row.every()] for row in page.only("section", class_="state").every("tr")[1:]]
    return {row[0]: row[-1] for row in cells}


def at(db: Connection, hours: int, operation: str, before: Any = None, after: Any = None, **columns: Any) -> str:
    """An entry of document 1, so many hours before the last midnight."""
    return add_entry(
        db, today(hours=-hours), operation=operation, before=before, after=after, resource_name="Plan", **columns
    )


def test_the_state_at_each_moment_is_what_the_row_was(web: Client, db: Connection) -> None:
    created = at(db, 9, "INSERT", after={"id": 1, "title": "A", "size": None})
    updated = at(db, 8, "UPDATE", {"title": "A"}, {"title": "B"})
    again = at(db, 7, "UPDATE", {"size": None}, {"size": 7})
    deleted = at(db, 6, "DELETE", before={"id": 1, "title": "B", "size": 7}, event="resource_deleted")
    assert state(page_of(web, f"id=1&at={created}")) == {"id": "1", "title": "A", "size": "null"}
    assert state(page_of(web, f"id=1&at={updated}")) == {"id": "1", "title": "B", "size": "null"}
    assert state(page_of(web, f"id=1&at={again}")) == {"id": "1", "title": "B", "size": "7"}
    assert "It was not there: deleted, or not created yet, at this moment." in page_of(web, f"id=1&at={deleted}").text
    assert "It was not there: it has been deleted." in page_of(web, "id=1").text


def test_what_is_older_than_the_log_is_told_by_later_entries_and_said_to_be_incomplete(
    web: Client, db: Connection
) -> None:
    first = at(db, 9, "UPDATE", {"title": "A"}, {"title": "B"})
    at(db, 8, "UPDATE", {"size": 1}, {"size": 2})
    page = page_of(web, f"id=1&at={first}")
    assert state(page) == {"title": "B", "size": "1"}
    assert "It is older than what the log keeps" in page.only("p", class_="gap").text
    at(db, 7, "DELETE", before={"id": 1, "title": "B", "size": 2, "kind": "x"})
    whole = page_of(web, f"id=1&at={first}")
    assert state(whole) == {"id": "1", "kind": "x", "title": "B", "size": "1"}
    assert whole.every("p", class_="gap") == []


def test_permissions_are_part_of_the_state(web: Client, db: Connection) -> None:
    given = {"table_name": "document_permission", "row_key": "9", "context": {"subject": {"id": "8", "name": "Grace"}}}
    at(db, 9, "INSERT", after={"id": 1})
    row = {"id": 9, "document_id": "1", "member_id": "8", "level": "view"}
    granted = at(db, 8, "INSERT", after=row, event="permission_granted", **given)
    changed = at(db, 7, "UPDATE", {"level": "view"}, {"level": "edit"}, event="permission_changed", **given)
    at(db, 6, "DELETE", before={**row, "level": "edit"}, event="permission_revoked", **given)
    told = [page_of(web, f"id=1&at={entry}").only("ul", class_="belongs").text for entry in (granted, changed)]
    assert told == ["Grace level: view", "Grace level: edit"]
    assert page_of(web, "id=1").every("ul", class_="belongs") == []


def test_bulk_entries_are_part_of_history_and_state(web: Client, db: Connection) -> None:
    bulk = add_entry(db, resource_id=None, row_count=3)
    add_changes(db, bulk, range(1, 4))
    page = page_of(web, "id=2")
    assert [line.only("div", class_="what").every("p")[0].text for line in page.every("li", class_="line")] == [
        "Ada Lovelace updated 3 documents"
    ]
    assert state(page) == {"size": "3"}


def test_a_truncate_ends_a_row(web: Client, db: Connection) -> None:
    at(db, 9, "INSERT", after={"id": 1})
    at(db, 8, "TRUNCATE", event="resource_deleted", resource_id=None, row_count=5)
    at(db, 8, "TRUNCATE", event="resource_deleted", resource_id=None, row_count=5, table_name="other")
    assert "It was not there" in page_of(web, "id=1").text


def test_a_row_that_comes_back_begins_anew(web: Client, db: Connection) -> None:
    at(db, 9, "INSERT", after={"id": 1, "title": "A", "old": 1})
    gone = at(db, 8, "DELETE", before={"id": 1, "title": "A", "old": 1})
    at(db, 7, "INSERT", after={"id": 1, "title": "B"})
    assert state(page_of(web, "id=1")) == {"id": "1", "title": "B"}
    assert "It was not there" in page_of(web, f"id=1&at={gone}").text


def test_every_line_of_the_history_leads_to_the_state_then(web: Client, db: Connection) -> None:
    entry = at(db, 9, "INSERT", after={"id": 1})
    [line] = page_of(web, "id=1").every("li", class_="line")
    address = f"/settings/audit-log/resource?at={entry}&id=1&type=document#state"
    assert [link["href"] for link in line.every("a")][-1] == address


def test_a_kind_of_resource_has_its_own_ids(web: Client, db: Connection) -> None:
    at(db, 9, "INSERT", after={"id": 1, "title": "Document"})
    at(db, 8, "INSERT", after={"id": 1, "name": "Dashboard"}, resource_type="dashboard", table_name="dashboard")
    page = page_of(web, "id=1")
    assert (state(page), len(page.every("li", class_="line"))) == ({"id": "1", "title": "Document"}, 1)


def test_long_values_are_said_to_be_cut(web: Client, db: Connection) -> None:
    at(db, 9, "INSERT", after={"id": 1, "text": "x" * 2000})
    assert "Long values are cut here" in page_of(web, "id=1").only("p", class_="gap").text


def test_a_resource_of_another_workspace_is_unknown(web: Client, db: Connection) -> None:
    entry = at(db, 9, "INSERT", after={"id": "S3CRET"})
    answer = web.get(f"{PAGE}/resource?type=document&id=1&at={entry}", headers=signed_in("s"))
    assert (answer.status_code, "S3CRET" in answer.text, "Nothing is known of it" in answer.text) == (200, False, True)
