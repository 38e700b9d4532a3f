"""The bench is honest: systems that leave a change out are refused, and its arithmetic is what it says.

It must not time anything; the peers from the registry are proven by the bench itself, before it times them.
"""

from collections.abc import Sequence
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from bench.write.chart import chart
from bench.write.clients import Task, transact
from bench.write.measure import Cost, RecordingError, Subject, prove
from bench.write.report import goals, table
from bench.write.systems import SYSTEMS, System, nothing
from bench.write.tables import creation
from bench.write.workloads import SMALL, WORKLOADS, Sizes
from tests.conftest import Database
from tests.trail import Connection

BY_KEY = {system.key: system for system in SYSTEMS}
UPDATES = [workload for workload in WORKLOADS if workload.key in ("insert-100000", "update-1", "update-10000")]
SVG = "{http://www.w3.org/2000/svg}"


class OneAfterTheOther:
    """Clients without processes: one session does the transactions of all."""

    def __init__(self, session: Connection) -> None:
        self.session = session

    def run(self, tasks: Sequence[Task]) -> int:
        return sum(transact(self.session, task) for task in tasks)


@pytest.fixture
def clients(database: Database) -> OneAfterTheOther:
    return OneAfterTheOther(database.connect())


@pytest.fixture
def set_up(database: Database) -> "SetUp":
    return SetUp(database)


class SetUp:
    """Makes a subject of a system: the bench's tables, tracked by it, in the test's database."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def __call__(self, system: System) -> Subject:
        session = self.database.connect()
        for statement in creation(SMALL.few):
            session.execute(statement.encode())
        system.install(self.database.url())
        return Subject(system, self.database.url(), session, self.database.connect())


@pytest.mark.parametrize("key", ["floor", "ours", "classic"])
def test_a_system_is_shown_to_record_every_change_of_every_workload(
    key: str, set_up: SetUp, clients: OneAfterTheOther
) -> None:
    assert prove(set_up(BY_KEY[key]), clients) == 1021


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        ("delete from change_log where key = 7", "400 rows were changed, 399 are"),
        ("update change_log set key = 9999 where key = 7", "row 9999"),
        ("update change_log set before = '{}' where operation = 'UPDATE'", "before"),
        ("update change_log set after = jsonb_set(after, '{state}', '\"other\"') where operation = 'UPDATE'", "after"),
    ],
)
def test_a_log_that_is_not_what_happened_is_refused(
    harm: str, message: str, set_up: SetUp, clients: OneAfterTheOther
) -> None:
    subject = set_up(BY_KEY["floor"])
    subject.observer.execute(
        f"""
        create function harm() returns trigger language plpgsql as $$ begin {harm}; return null; end $$;
        create trigger harm after insert on change_log for each statement execute function harm();
        """.encode()
    )
    with pytest.raises(RecordingError, match=message):
        prove(subject, clients, UPDATES)


def test_a_log_without_the_actor_is_refused(set_up: SetUp, clients: OneAfterTheOther) -> None:
    subject = set_up(BY_KEY["classic"])
    subject.observer.execute("alter table classic.logged_actions rename application_name to forgotten")
    subject.observer.execute("alter table classic.logged_actions add application_name text default 'somebody'")
    with pytest.raises(RecordingError, match="without their actor"):
        prove(subject, clients, UPDATES)


def test_no_two_clients_change_the_same_row_and_no_row_is_made_or_deleted_twice_in_a_round() -> None:
    sizes = Sizes(alone=300, together=75, warm=12, times=3)
    ids = [
        (workload.operation, row)
        for workload in WORKLOADS
        if workload.clients == 8 or workload.key in ("insert-1", "delete-1")
        for time in range(3)
        for client in range(workload.clients)
        for rows in workload.ids(sizes, client, time)
        for row in rows
    ]
    assert len(ids) == 3 * (3 * 8 * 87 + 2 * 312)
    assert len(set(ids)) == 3 * (3 * 8 * 87 + 2 * 312)


COSTS = {
    ("update-10000", "untracked"): [Cost(2, 200, 0, 1000), Cost(4, 200, 0, 500), Cost(3, 200, 0, 800)],
    ("update-10000", "floor"): [Cost(9, 300, 90, 400)],
    ("update-10000", "ours"): [Cost(13, 400, 150, 300), Cost(15, 400, 150, 200), Cost(90, 400, 150, 100)],
    ("update-10000", "row"): [Cost(13, 900, 600, 250)],
    ("update-10000", "hstore"): [Cost(23, 600, 300, 250)],
}
MEASURED = [
    BY_KEY["untracked"],
    replace(BY_KEY["floor"], title="hand"),
    BY_KEY["ours"],
    System("row", "row", nothing, is_peer=True),
    System("hstore", "hstore", nothing, is_peer=True),
]


def test_the_table_has_medians_what_is_added_and_ratios() -> None:
    assert table(COSTS, MEASURED, WORKLOADS).splitlines()[2:] == [
        "| UPDATE of 10,000 | untracked | 3.0 | 1.00 |  |  | 200 | 1.00 |  |  | 0.0 |  | 800 | 1.00 |",
        "|  | hand | 9.0 | 3.00 | 6.0 | 0.50 | 300 | 1.50 | 100 | 0.50 | 90.0 | 0.60 | 400 | 0.50 |",
        "|  | pg_daybook | 15.0 | 5.00 | 12.0 | 1.00 | 400 | 2.00 | 200 | 1.00 | 150 | 1.00 | 200 | 0.25 |",
        "|  | row | 13.0 | 4.33 | 10.0 | 0.83 | 900 | 4.50 | 700 | 3.50 | 600 | 4.00 | 250 | 0.31 |",
        "|  | hstore | 23.0 | 7.67 | 20.0 | 1.67 | 600 | 3.00 | 400 | 2.00 | 300 | 2.00 | 250 | 0.31 |",
    ]


def test_a_goal_is_held_against_the_cheapest_peer_of_each_figure() -> None:
    assert goals(COSTS, MEASURED).splitlines() == [
        "MISSED bulk UPDATE: at most the cheapest peer's CPU; update-10000: 12.0 against 10.0 (row), factor 1.20",
        "MISSED bulk UPDATE: at most 1.5 times the floor's CPU; update-10000: 12.0 against 6.0 (hand), factor 2.00",
        "MISSED WAL: at most 40 % of the cheapest peer's bytes; update-10000: 200 against 400 (hstore), factor 0.50",
        "MISSED log: at most 40 % of the cheapest peer's bytes; update-10000: 150 against 300 (hstore), factor 0.50",
    ]
    cheaper = {**COSTS, ("update-10000", "ours"): [Cost(12, 360, 120, 300)]}
    assert [line[:6] for line in goals(cheaper, MEASURED).splitlines()] == ["met   "] * 4


def test_the_chart_is_an_image_that_says_its_figures_in_words() -> None:
    root = ElementTree.fromstring(chart(18, COSTS, MEASURED, WORKLOADS))
    assert root.get("role") == "img"
    assert root.findtext(f"{SVG}title") == "What an audit log adds to a write, PostgreSQL 18"
    assert root.findtext(f"{SVG}desc") == (
        "Microseconds of backend CPU added a row over an untracked table. UPDATE of 10,000: hand 6.0, "
        "pg_daybook 12.0, row 10.0, hstore 20.0."
    )
    widths = [float(bar.get("width", "")) for bar in root.iter(f"{SVG}rect")]
    assert [width / widths[3] for width in widths] == pytest.approx([0.3, 0.6, 0.5, 1])
    assert [words.text for words in root.iter(f"{SVG}text")][2::2] == [
        "hand",
        "pg_daybook",
        "row",
        "hstore",
    ]
