"""docs/dba.md does what it says: each of its queries, run as a DBA, has its result and touches the days it should.

The queries stand in the document alone.
"""

import csv
import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest

from tests.conftest import REPOSITORY, Database, TestServer
from tests.reading import shared_database

Connection = psycopg.Connection[Any]

DOCUMENT = (REPOSITORY / "docs" / "dba.md").read_text(encoding="utf-8")
QUERIES = dict(re.findall(r"^## ([^\n]*)\n(?:(?!^## ).)*?^```sql\n(.*?)^```", DOCUMENT, re.DOTALL | re.MULTILINE))
# The one entry whose id the document names.
BULK_ENTRY = "019ce161-a9c0-7000-8000-000000000001"

TABLES = """
create table document (id integer primary key, workspace_id text, title text, description text);
create table document_permission (
    id integer primary key, workspace_id text, document_id integer references document, person text, level text);
select audit.enable_tracking('document', resource_name_column => 'title',
    column_events => '{"documentation_updated": ["description"]}');
select audit.enable_tracking('document_permission', kind => 'permission', resource_id_columns => '{document_id}',
    subject_column => 'person');
grant select, update on document to app_user;
"""


class Scene(NamedTuple):
    """A transaction of the story: when it is to have happened, who did what, by which request."""

    moment: str
    actor: str | None
    request: str | None
    statements: Sequence[str]


STORY = [
    Scene(
        "2026-03-09 08:00",
        "7",
        "r-101",
        ["insert into document values (1, 'acme', 'Revenue'), (2, 'acme', 'Churn'), (3, 'acme', 'Pricing')"],
    ),
    Scene(
        "2026-03-10 09:00",
        "7",
        "r-201",
        ["insert into document_permission values (1, 'acme', 1, 'grace', 'edit'), (2, 'acme', 1, 'linus', 'view')"],
    ),
    Scene(
        "2026-03-10 10:30",
        "7",
        "r-202",
        [
            "update document set title = 'Revenue KPIs' where id = 1",
            "insert into document_permission values (3, 'acme', 1, 'edsger', 'view')",
        ],
    ),
    Scene("2026-03-10 11:00", "8", "r-203", ["update document set description = 'by month' where id = 3"]),
    Scene("2026-03-11 14:00", "8", "r-211", ["delete from document where id = 2"]),
    Scene("2026-03-12 09:30", None, None, ["update document set description = 'reviewed'"]),
    Scene("2026-03-13 16:00", "8", "r-231", ["delete from document_permission where person = 'linus'"]),
    Scene("2026-03-13 17:00", "7", "r-232", ["update document set title = title || ' 2026'"]),
    Scene("2026-03-13 18:00", "8", "r-233", ["update document set title = 'Prices' where id = 3"]),
]
NAMES = {"7": "Ada Lovelace", "8": "Grace Hopper"}


def tell(db: Connection, application: Connection, scene: Scene) -> None:
    """Let a transaction write through the tracked tables, and move what was captured to its moment."""
    connection = db if scene.actor else application
    with connection.transaction():
        if scene.actor:
            connection.execute("select audit.set_actor(%s, %s)", [scene.actor, NAMES[scene.actor]])
            connection.execute("select audit.set_context(request_id => %s)", [scene.request])
        for statement in scene.statements:
            connection.execute(statement.encode())
    move(db, scene.moment)


def move(db: Connection, moment: str) -> None:
    """Move the entries of today to a moment, a millisecond apart; only a superuser with the guards off can."""
    with db.transaction():
        db.execute("set local session_replication_role = replica")
        db.execute(
            """
            create temporary table moved on commit drop as
            select id as old_id, audit.new_entry_id(moment) as new_id, moment
            from (select id, %s::timestamptz
                         + (row_number() over (order by created_at, id) - 1) * interval '1 ms' as moment
                  from audit.entry where created_at > now() - interval '1 hour') as e""",
            [f"{moment}+00"],
        )
        db.execute("update moved set new_id = %s where moment = audit.entry_moment(%s)", [BULK_ENTRY] * 2)
        for table, id_column in (("change", "entry_id"), ("entry", "id")):
            db.execute(
                f"update audit.{table} set {id_column} = new_id, created_at = moment"
                f" from moved where {id_column} = old_id".encode()
            )


@pytest.fixture(scope="module")
def database(server: TestServer) -> Iterator[Database]:
    """A log of five days in March, written through tracked tables."""
    with shared_database(server) as database:
        db, application = database.connect(), database.connect("app_user")
        db.execute(
            "select audit.create_day(day::date) from generate_series('2026-03-09'::date, '2026-03-13', '1 day') day"
        )
        db.execute(TABLES.encode())
        move(db, "2026-03-09 07:00")
        for scene in STORY:
            tell(db, application, scene)
        yield database


@pytest.fixture(scope="module")
def dba(database: Database) -> Connection:
    return database.connect("dba")


def at(moment: str) -> datetime:
    return datetime.fromisoformat(f"2026-03-{moment}").replace(tzinfo=UTC)


ADA, GRACE = NAMES["7"], NAMES["8"]
RESULTS: dict[str, list[tuple[Any, ...]]] = {
    "Who deleted this document?": [(at("11 14:00"), GRACE, "r-211", 1, "Churn")],
    "What did this person do on Tuesday?": [
        (at("10 09:00"), "permission_granted", "document_permission", "1", None, 2),
        (at("10 10:30"), "resource_updated", "document", "1", "Revenue KPIs", 1),
        (at("10 10:30:00.001"), "permission_granted", "document_permission", "1", None, 1),
    ],
    "What did this bulk statement change?": [
        ("1", "Revenue KPIs", {"description": None}, {"description": "reviewed"}),
        ("3", "Pricing", {"description": "by month"}, {"description": "reviewed"}),
    ],
    "Who can see this document?": [
        ("grace", "permission_granted", ADA, at("10 09:00")),
        ("linus", "permission_revoked", GRACE, at("13 16:00")),
        ("edsger", "permission_granted", ADA, at("10 10:30:00.001")),
    ],
    "What did this request do, in all tables?": [
        (at("10 10:30"), "document", "resource_updated", "1", ADA),
        (at("10 10:30:00.001"), "document_permission", "permission_granted", "1", ADA),
    ],
    "Which writes had no user behind them?": [("app_user", "document", "documentation_updated", 1, Decimal(2))],
    "Which tables write most?": [
        ("public", "document_permission", 2, Decimal(3)),
        ("public", "document", 2, Decimal(2)),
    ],
    "What was this row at that moment?": [
        ({"id": 1, "title": "Revenue", "description": None, "workspace_id": "acme"},)
    ],
    "Who changed this column?": [
        (at("13 17:00"), ADA, "document", "1", "Revenue KPIs", "Revenue KPIs 2026"),
        (at("13 17:00"), ADA, "document", "3", "Pricing", "Pricing 2026"),
        (at("13 18:00"), GRACE, "document", "3", "Pricing 2026", "Prices"),
    ],
    "What else did this transaction write?": [(at("12 09:30"), "document", "documentation_updated", None, 2)],
}
SIZES = "How big is each day, and when is it dropped?"
COPY = "One day as CSV"

# The partitions that each plan touches, and what of its condition an index answers.
ONE_DAY = {
    "What did this person do on Tuesday?": ({"entry_20260310"}, None),
    "What did this bulk statement change?": ({"change_20260312"}, "entry_id"),
    "What did this request do, in all tables?": ({"entry_20260310"}, None),
    "Which writes had no user behind them?": ({"entry_20260312"}, None),
    "Which tables write most?": ({"entry_20260310"}, None),
    "Who changed this column?": ({"entry_20260313", "change_20260313"}, None),
    "What else did this transaction write?": ({"entry_20260312"}, None),
    COPY: ({"entry_20260311"}, None),
    SIZES: (set[str](), None),
}
WHOLE_PAST = ["Who deleted this document?", "Who can see this document?"]
# What a function does within is no part of a plan.
BY_FUNCTION = ["What was this row at that moment?"]


def nodes(plan: Any) -> Iterator[dict[str, Any]]:
    """All nodes of a plan."""
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def explained(dba: Connection, question: str) -> list[dict[str, Any]]:
    """The nodes of the plan of a question, where indexes are taken if they serve at all: the days are tiny."""
    query = QUERIES[question]
    copied = re.match(r"\\copy \((.*)\) to ", query)
    with dba.transaction():
        dba.execute("set local enable_seqscan = off")
        row = dba.execute(f"explain (format json) {copied[1] if copied else query}".encode()).fetchone()
    assert row is not None
    return list(nodes(row[0][0]["Plan"]))


def touched(plan: list[dict[str, Any]]) -> set[str]:
    """The partitions of the log that a plan reads."""
    return {node["Relation Name"] for node in plan if re.match("entry_|change_", node.get("Relation Name", ""))}


def test_every_question_of_the_document_is_asked_here() -> None:
    assert list(QUERIES) == re.findall("^## (.*)$", DOCUMENT, re.MULTILINE)
    assert {*QUERIES} == {*RESULTS, SIZES, COPY} == {*ONE_DAY, *WHOLE_PAST, *BY_FUNCTION}


@pytest.mark.parametrize("question", RESULTS)
def test_a_question_is_answered(dba: Connection, question: str) -> None:
    assert dba.execute(QUERIES[question].encode()).fetchall() == RESULTS[question]


def test_each_day_has_a_size_and_an_end(dba: Connection) -> None:
    rows = dba.execute(QUERIES[SIZES].encode()).fetchall()
    assert [(day, dropped) for day, _, dropped in rows] == [
        (date(2026, 3, 9), date(2026, 6, 8)),
        (date(2026, 3, 10), date(2026, 6, 9)),
        (date(2026, 3, 11), date(2026, 6, 10)),
        (date(2026, 3, 12), date(2026, 6, 11)),
        (date(2026, 3, 13), date(2026, 6, 12)),
    ]
    assert min(size for _, size, _ in rows) > 8192


def test_a_day_is_copied_to_a_file(database: Database, pg_bin: Path, tmp_path: Path) -> None:
    command = [str(pg_bin / "psql"), "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--dbname", database.url("dba")]
    subprocess.run(command, input=QUERIES[COPY], text=True, check=True, cwd=tmp_path)
    with (tmp_path / "log-2026-03-11.csv").open(newline="") as file:
        rows = [
            (row["created_at"][:16], row["event"], row["resource_id"], json.loads(row["before"]))
            for row in csv.DictReader(file)
        ]
    churn = {"id": 2, "title": "Churn", "description": None, "workspace_id": "acme"}
    assert rows == [("2026-03-11 14:00", "resource_deleted", "2", churn)]


@pytest.mark.parametrize("question", ONE_DAY)
def test_a_question_about_a_day_touches_that_day_alone(dba: Connection, question: str) -> None:
    days, indexed = ONE_DAY[question]
    plan = explained(dba, question)
    assert touched(plan) == days
    assert indexed is None or [node for node in plan if indexed in node.get("Index Cond", "")]


@pytest.mark.parametrize("question", WHOLE_PAST)
def test_a_question_about_a_resource_looks_into_an_index_of_each_day_that_has_begun(
    dba: Connection, question: str
) -> None:
    plan = explained(dba, question)
    begun = dba.execute("select partition_name from audit.day_partition where lower_bound <= now()").fetchall()
    assert touched(plan) == {name for (name,) in begun}
    assert len(begun) >= 14
    looks = [node for node in plan if "(resource_id = " in node.get("Index Cond", "")]
    assert len(looks) == len(begun)


@pytest.mark.parametrize("question", BY_FUNCTION)
def test_a_function_asks_for_itself(dba: Connection, question: str) -> None:
    assert touched(explained(dba, question)) == set()
