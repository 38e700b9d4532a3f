"""Search by words: in names and changed values, on open and on closed days alike, within the reader's workspace."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from .conftest import Database
from .reading import AS_ADMIN, Client, add_changes, add_entry, add_keys, opened, today
from .test_counts import WORKSPACE, count_until
from .upkeep import close_days

Connection = psycopg.Connection[Any]
RESOURCE = "/api/v1/notification/resource/"


@pytest.fixture(params=["open", "closed"])
def log(request: pytest.FixtureRequest, database: Database, db: Connection) -> Iterator[tuple[Client, dict[str, str]]]:
    """Entries by a letter, all of one day, the newest first."""
    add_keys(db)
    entries = {
        "A": add_entry(db, today(hours=-2), resource_name="Revenue KPIs", resource_id="7"),
        "B": add_entry(db, today(hours=-3), actor_name="Grace Hopper", event="resource_deleted"),
        "C": add_entry(
            db,
            today(hours=-4),
            before=Jsonb({"title": "Quarterly revenue"}),
            after=Jsonb({"title": 'Yearly "turnover"\nand more', "tags": [{"deep": "Größe"}], "stars": 4711}),
        ),
        "D": add_entry(db, today(hours=-5), resource_id=None, row_count=3),
        "E": add_entry(db, today(hours=-6), workspace_id="globex", resource_name="Revenue KPIs"),
        "F": add_entry(
            db, today(hours=-7), after=Jsonb({"secret": {"redacted": True}, "long": "x" * 200_000 + " end"})
        ),
        "G": add_entry(db, today(hours=-8), event="log_viewed", resource_name="Revenue"),
    }
    add_changes(db, entries["D"], range(7, 10))
    if request.param == "closed":
        count_until(db, today())
        assert f"entry_{today(hours=-2):%Y%m%d}" in close_days(db)
    with opened(database) as api:
        yield api, entries


CASES: list[tuple[dict[str, str], str | None]] = [
    ({"q": "revenue"}, "AC"),
    ({"q": "REVENUE kpis"}, "A"),
    ({"q": "kpis grace"}, ""),
    ({"q": "hopper"}, "B"),
    ({"q": "turnover"}, "C"),
    ({"q": "quarterly yearly"}, "C"),
    ({"q": "größe"}, "C"),
    ({"q": "4711"}, "C"),
    # A row of a bulk entry.
    ({"q": "Document 9"}, "D"),
    ({"q": "Ada", "event": "resource_deleted"}, ""),
    ({"q": "revenue", "resource_type": "document", "created_before": today(hours=-3.5).isoformat()}, "C"),
    ({"q": "revenue", "performer_id": "42", "days": "90"}, "AC"),
    ({"q": "revenue", "event": "log_*"}, "G"),
    # What it does not find: parts of words, names of columns, markers, what lies far in, characters of its own.
    ({"q": "reven"}, ""),
    ({"q": "title"}, ""),
    ({"q": "redacted"}, ""),
    ({"q": "end"}, ""),
    ({"q": "revenue:*"}, "AC"),
    ({"q": "revenue | grace"}, ""),
    ({"q": "!revenue"}, "AC"),
    ({"q": "'"}, None),
    ({"q": "  \u00a0"}, None),
    ({"q": ""}, "ABCDF"),
]


def test_words_find_entries(log: tuple[Client, dict[str, str]]) -> None:
    api, entries = log
    letters = {entry_id: letter for letter, entry_id in entries.items()}
    for parameters, found in CASES:
        answer = api.get(WORKSPACE, params=parameters, headers=AS_ADMIN)
        if found is None:
            assert answer.status_code == 400, parameters
            assert answer.json() == {"q": ["Give at least one word."]}
            continue
        # The first of log_* is the reading itself.
        shown = [letters[row["id"]] for row in answer.json()["results"] if row["id"] in letters]
        assert "".join(shown) == found, parameters
        assert answer.json()["count"] - len(shown) in (0, 1)


def test_words_go_with_a_resource_pages_and_a_cursor(log: tuple[Client, dict[str, str]], db: Connection) -> None:
    api, entries = log
    answer = api.get(RESOURCE, params={"resource_id": "7", "q": "Document 8"}, headers=AS_ADMIN).json()
    assert [row["id"] for row in answer["results"]] == [entries["D"]]
    second = api.get(WORKSPACE, params={"q": "revenue", "page_size": "1", "page": "last"}, headers=AS_ADMIN).json()
    assert [row["id"] for row in second["results"]] == [entries["C"]]
    assert (second["count"], second["next"]) == (2, None)
    db.execute(
        "insert into audit.watermark (moment) values (%s) on conflict (only_row) do update set moment = now()",
        [today()],
    )
    step = api.get(WORKSPACE, params={"q": "revenue", "cursor": "", "page_size": "1"}, headers=AS_ADMIN).json()
    assert [row["id"] for row in step["results"]] == [entries["C"]]
    after = api.get(step["next"], headers=AS_ADMIN).json()
    assert [row["id"] for row in after["results"]] == [entries["A"]]
    exported = api.get("/api/v1/notification/export.csv", params={"q": "revenue"}, headers=AS_ADMIN).text
    assert [line[:36] for line in exported.splitlines()[1:]] == [entries["A"], entries["C"]]


def test_the_workspace_is_the_transactions_alone(db: Connection, database: Database) -> None:
    add_entry(db, today(hours=-2), resource_name="Revenue")
    query = "select count(*) from audit.search('revenue', '-infinity', 'infinity')"
    with database.connect("reader", autocommit=False) as reader:
        reader.execute("set local role audit_reader")
        assert reader.execute(query).fetchone() == (0,)
        reader.execute("set local audit.reader_workspace = 'globex'")
        assert reader.execute(query).fetchone() == (0,)
        reader.execute("set local audit.reader_workspace = 'acme'")
        assert reader.execute(query).fetchone() == (1,)


def test_more_text_than_an_index_takes_is_cut(db: Connection) -> None:
    words = " ".join(f"word{number}" for number in range(300_000))
    add_entry(db, today(hours=-2), after=Jsonb({"title": words}))
    count_until(db, today())
    assert len(close_days(db)) == 1
    row = db.execute(
        "select length(audit.entry_words(null, null, null, %s)) > 10000", [Jsonb({"a": words, "b": words})]
    ).fetchone()
    assert row == (True,)
