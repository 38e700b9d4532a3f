"""The contract of daybook.actor: who an entry names, for each way to send a statement.

It must not test what the database makes of a malformed setting.
"""

import gc
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from typing import Any
from uuid import UUID

import psycopg
import pytest
import sqlalchemy
from psycopg.rows import dict_row
from sqlalchemy import orm, text
from sqlalchemy.ext import asyncio

from daybook import actor
from tests.conftest import Database
from tests.wire import wire

Connection = psycopg.Connection[tuple[Any, ...]]
AsyncConnection = psycopg.AsyncConnection[tuple[Any, ...]]

pytestmark = pytest.mark.anyio

INSERT = "insert into note (text) values (%s)"


class Trail:
    """What the log says of the table `note`."""

    def __init__(self, db: Connection) -> None:
        self._db = db

    def who(self) -> dict[str, str]:
        """Return who inserted each note."""
        query = (
            "select coalesce(e.after, c.after) ->> 'text', actor_id"
            " from audit.timeline e left join audit.timeline_change c on c.entry_id = e.id where operation = 'INSERT'"
        )
        return dict(self._db.execute(query).fetchall())

    def entry(self) -> dict[str, Any]:
        """Return actor and context of the only entry."""
        columns = "actor_type, actor_id, actor_name, request_id, context"
        query = f"select {columns} from audit.timeline where operation = 'INSERT'"
        (row,) = self._db.cursor(row_factory=dict_row).execute(query).fetchall()
        return row


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def trail(db: Connection) -> Trail:
    db.execute("create table note (id bigint generated always as identity primary key, text text unique)")
    db.execute("select audit.enable_tracking('note', workspace => 'w')")
    return Trail(db)


@pytest.fixture
def connection(database: Database, trail: Trail) -> Connection:
    return database.connect(autocommit=False)


@pytest.fixture
async def async_connection(database: Database, trail: Trail) -> AsyncIterator[AsyncConnection]:
    connection = await psycopg.AsyncConnection.connect(database.url())
    yield connection
    await connection.close()


@pytest.fixture
def engine(database: Database, trail: Trail) -> Iterator[sqlalchemy.Engine]:
    engine = sqlalchemy.create_engine(database.url().replace("postgresql:", "postgresql+psycopg:"))
    yield engine
    engine.dispose()


@pytest.fixture
async def async_engine(database: Database, trail: Trail) -> AsyncIterator[asyncio.AsyncEngine]:
    engine = asyncio.create_async_engine(database.url().replace("postgresql:", "postgresql+psycopg:"))
    yield engine
    await engine.dispose()


class Base(orm.DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "note"
    id: orm.Mapped[int] = orm.mapped_column(sqlalchemy.Identity(always=True), primary_key=True)
    text: orm.Mapped[str]


def note(value: str) -> sqlalchemy.TextClause:
    return text("insert into note (text) values (:text)").bindparams(text=value)


# What a block says


def test_actor_and_context_stand_in_the_entry(connection: Connection, trail: Trail) -> None:
    with (
        connection,
        actor(
            connection,
            42,
            "Ada Lovelace",
            type="service",
            request_id=UUID("018f0000-0000-7000-8000-000000000001"),
            reason="as asked",
            ip="192.0.2.7",
            user_agent="curl/8",
            metadata={"ticket": 7, "name": "Zoë"},
        ),
    ):
        connection.execute(INSERT, ["a"])
    assert trail.entry() == {
        "actor_type": "service",
        "actor_id": "42",
        "actor_name": "Ada Lovelace",
        "request_id": "018f0000-0000-7000-8000-000000000001",
        "context": {
            "reason": "as asked",
            "ip": "192.0.2.7",
            "user_agent": "curl/8",
            "metadata": {"ticket": 7, "name": "Zoë"},
        },
    }


def test_without_a_name_the_actor_is_called_by_the_id(connection: Connection, trail: Trail) -> None:
    with connection, actor(connection, "ada"):
        connection.execute(INSERT, ["a"])
    assert trail.entry() == {
        "actor_type": "user",
        "actor_id": "ada",
        "actor_name": "ada",
        "request_id": None,
        "context": None,
    }


def test_a_value_that_postgresql_cannot_hold_does_not_fail_the_write(connection: Connection, trail: Trail) -> None:
    with connection, actor(connection, "ada", "A\0da", user_agent="half \ud800"):
        connection.execute(INSERT, ["a"])
    assert trail.entry()["actor_name"] == "A\ufffdda"
    assert trail.entry()["context"] == {"user_agent": "half ?"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"id": ""}, "id is empty"),
        ({"id": "  "}, "id is empty"),
        ({"id": None}, "id is a text, a number or a UUID, not None"),
        ({"id": True}, "id is a text, a number or a UUID, not True"),
        ({"id": "system"}, '"system" is what no user did'),
        ({"id": "ada", "name": 7}, "name is a text or None, not 7"),
        ({"id": "ada", "type": "robot"}, "type is user or service, not 'robot'"),
        ({"id": "ada", "type": "system"}, "type is user or service, not 'system'"),
        ({"id": "ada", "metadata": "x"}, "metadata is a dict, not 'x'"),
        ({"id": "ada", "metadata": {"at": object}}, "metadata cannot be written as JSON"),
        ({"id": "ada", "metadata": {"at": float("nan")}}, "metadata cannot be written as JSON"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    connection: Connection, arguments: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        actor(connection, **arguments)


def test_what_is_no_open_connection_is_refused() -> None:
    engine = asyncio.create_async_engine("postgresql+psycopg://")
    with pytest.raises(ValueError, match="needs an open connection or session of psycopg or SQLAlchemy, not Engine"):
        actor(engine.sync_engine, "ada")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs an open connection"):
        actor(engine.connect(), "ada")


def test_another_database_than_postgresql_is_refused() -> None:
    with (
        sqlalchemy.create_engine("sqlite://").connect() as connection,
        pytest.raises(ValueError, match="needs a connection to PostgreSQL, not to sqlite"),
    ):
        actor(connection, "ada")


# psycopg: which statements have the actor


def test_each_transaction_begun_inside_the_block_has_the_actor(connection: Connection, trail: Trail) -> None:
    with actor(connection, "ada"):
        connection.execute(INSERT, ["first"])
        connection.commit()
        connection.execute(INSERT, ["second"])
        connection.commit()
    assert trail.who() == {"first": "ada", "second": "ada"}


def test_after_the_block_the_actor_is_what_it_was(connection: Connection, trail: Trail) -> None:
    connection.execute(INSERT, ["before"])
    with actor(connection, "ada"):
        connection.execute(INSERT, ["inside"])
    connection.execute(INSERT, ["after"])
    connection.commit()
    connection.execute(INSERT, ["later"])
    connection.commit()
    assert trail.who() == {"before": "system", "inside": "ada", "after": "system", "later": "system"}


def test_a_transaction_that_the_block_leaves_open_goes_on_without_the_actor(
    connection: Connection, trail: Trail
) -> None:
    with actor(connection, "ada"):
        connection.execute(INSERT, ["inside"])
    connection.execute(INSERT, ["after"])
    connection.commit()
    assert trail.who() == {"inside": "ada", "after": "system"}


def test_what_the_application_set_itself_is_put_back(connection: Connection, trail: Trail) -> None:
    connection.execute("select audit.set_actor('grace'), audit.set_context(reason => 'hers')")
    with actor(connection, "ada", reason="mine"):
        connection.execute(INSERT, ["inside"])
    connection.execute(INSERT, ["after"])
    assert connection.execute("select current_setting('audit.reason')").fetchone() == ("hers",)
    connection.commit()
    assert trail.who() == {"inside": "ada", "after": "grace"}


def test_an_inner_block_stands_in_the_place_of_the_outer_one(connection: Connection, trail: Trail) -> None:
    with actor(connection, "ada"):
        connection.execute(INSERT, ["outer"])
        with actor(connection, "grace"):
            connection.execute(INSERT, ["inner"])
        connection.execute(INSERT, ["outer again"])
        connection.commit()
    assert trail.who() == {"outer": "ada", "inner": "grace", "outer again": "ada"}


def test_a_transaction_begun_in_an_inner_block_goes_on_with_the_outer_actor(
    connection: Connection, trail: Trail
) -> None:
    with actor(connection, "ada"):
        with actor(connection, "grace"):
            connection.execute(INSERT, ["inner"])
        connection.execute(INSERT, ["outer"])
        connection.commit()
    assert trail.who() == {"inner": "grace", "outer": "ada"}


def test_an_inner_block_before_the_transaction_s_first_statement_gives_way_to_the_outer_one(
    connection: Connection, trail: Trail
) -> None:
    with actor(connection, "ada"), connection.transaction():
        with actor(connection, "grace"):
            connection.execute(INSERT, ["inner"])
        connection.execute(INSERT, ["outer"])
    assert trail.who() == {"inner": "grace", "outer": "ada"}


def test_an_inner_block_keeps_the_context_but_not_the_name(connection: Connection, trail: Trail) -> None:
    with (
        connection,
        actor(connection, "ada", "Ada Lovelace", request_id="r1", reason="outer"),
        actor(connection, "importer", type="service", reason="inner"),
    ):
        connection.execute(INSERT, ["a"])
    assert trail.entry() == {
        "actor_type": "service",
        "actor_id": "importer",
        "actor_name": "importer",
        "request_id": "r1",
        "context": {"reason": "inner"},
    }


def test_a_block_can_be_used_again_but_not_twice_at_once(connection: Connection, trail: Trail) -> None:
    block = actor(connection, "ada")
    with connection, block:
        connection.execute(INSERT, ["a"])
        with pytest.raises(RuntimeError, match="entered already"), block:
            pass
    assert trail.who() == {"a": "ada"}


def test_transaction_blocks_have_the_actor(connection: Connection, trail: Trail) -> None:
    with actor(connection, "ada"):
        with connection.transaction(), connection.transaction():
            connection.execute(INSERT, ["first"])
        with connection.transaction("named"):
            connection.execute(INSERT, ["second"])
    assert trail.who() == {"first": "ada", "second": "ada"}


def test_cursors_made_before_the_block_have_the_actor(connection: Connection, trail: Trail) -> None:
    cursor = connection.cursor()
    with connection, actor(connection, "ada"):
        cursor.execute(INSERT, ["a"])
    assert trail.who() == {"a": "ada"}


def test_executemany_has_the_actor(connection: Connection, trail: Trail) -> None:
    with connection, actor(connection, "ada"):
        connection.cursor().executemany(INSERT, [["a"], ["b"]])
    assert trail.who() == {"a": "ada", "b": "ada"}


def test_copy_has_the_actor(connection: Connection, trail: Trail) -> None:
    with (
        connection,
        actor(connection, "ada"),
        connection.cursor().copy("copy note (text) from stdin") as copy,
    ):
        copy.write_row(["a"])
    assert trail.who() == {"a": "ada"}


def test_a_stream_has_the_actor(connection: Connection, trail: Trail) -> None:
    with connection, actor(connection, "ada"):
        rows = list(connection.cursor().stream(INSERT + " returning text", ["a"]))
    assert rows == [("a",)]
    assert trail.who() == {"a": "ada"}


def test_a_server_side_cursor_has_the_actor(connection: Connection) -> None:
    with actor(connection, "ada"), connection.cursor("named") as cursor:
        assert cursor.execute("select current_setting('audit.actor_id')").fetchall() == [("ada",)]


def test_a_pipeline_has_the_actor(connection: Connection, trail: Trail) -> None:
    with actor(connection, "ada"), connection.pipeline():
        connection.execute(INSERT, ["first"])
        connection.commit()
        with connection.transaction(), connection.transaction():
            connection.execute(INSERT, ["second"])
    assert trail.who() == {"first": "ada", "second": "ada"}


def test_a_block_inside_a_pipeline_is_put_back(connection: Connection, trail: Trail) -> None:
    with connection, connection.pipeline():
        connection.execute("select audit.set_actor('grace')")
        with actor(connection, "ada"):
            connection.execute(INSERT, ["inside"])
        connection.execute(INSERT, ["after"])
    assert trail.who() == {"inside": "ada", "after": "grace"}


def test_a_two_phase_transaction_has_the_actor(connection: Connection, trail: Trail) -> None:
    with actor(connection, "ada"):
        connection.tpc_begin("here")
        connection.execute(INSERT, ["a"])
        connection.tpc_prepare()
        connection.tpc_commit()
    assert trail.who() == {"a": "ada"}


def test_a_statement_as_text_that_commits_is_followed_by_a_transaction_with_the_actor(
    connection: Connection, trail: Trail
) -> None:
    with actor(connection, "ada"):
        connection.execute(INSERT, ["first"])
        connection.execute("commit")
        connection.execute(INSERT, ["second"])
        connection.commit()
    assert trail.who() == {"first": "ada", "second": "ada"}


# psycopg: rollbacks and errors


def test_after_a_rollback_the_next_transaction_has_the_actor(connection: Connection, trail: Trail) -> None:
    with actor(connection, "ada"):
        connection.execute(INSERT, ["undone"])
        connection.rollback()
        connection.execute(INSERT, ["a"])
        connection.commit()
    assert trail.who() == {"a": "ada"}


def test_after_a_savepoint_is_rolled_back_the_actor_is_right(connection: Connection, trail: Trail) -> None:
    with actor(connection, "ada"), connection.transaction():
        with pytest.raises(psycopg.errors.DivisionByZero), connection.transaction():
            connection.execute("select 1/0")
        connection.execute(INSERT, ["a"])
    assert trail.who() == {"a": "ada"}


def test_an_inner_block_that_is_rolled_back_with_its_savepoint_leaves_the_outer_actor(
    connection: Connection, trail: Trail
) -> None:
    with actor(connection, "ada"), connection.transaction():
        with (
            pytest.raises(psycopg.errors.DivisionByZero),
            connection.transaction(),
            actor(connection, "grace"),
        ):
            connection.execute("select 1/0")
        connection.execute(INSERT, ["a"])
    assert trail.who() == {"a": "ada"}


def test_a_savepoint_made_by_hand_and_rolled_back_after_the_block_leaves_the_outer_actor(
    connection: Connection, trail: Trail
) -> None:
    with actor(connection, "ada"):
        connection.execute("select 1")
        with pytest.raises(psycopg.errors.DivisionByZero), actor(connection, "grace"):
            connection.execute("savepoint s; select 1/0")
        connection.execute("rollback to s")
        connection.execute(INSERT, ["a"])
        connection.commit()
    assert trail.who() == {"a": "ada"}


def test_an_aborted_block_without_an_outer_one_is_put_back(connection: Connection, trail: Trail) -> None:
    connection.execute("select audit.set_actor('grace')")
    with pytest.raises(psycopg.errors.DivisionByZero), actor(connection, "ada"):
        connection.execute("savepoint s; select 1/0")
    connection.execute("rollback to s")
    connection.execute(INSERT, ["a"])
    connection.commit()
    assert trail.who() == {"a": "grace"}


def test_a_transaction_block_older_than_the_actor_s_is_rolled_back_inside_it(
    connection: Connection, trail: Trail
) -> None:
    with connection.transaction(), ExitStack() as older:
        older.enter_context(connection.transaction(force_rollback=True))
        with actor(connection, "ada"):
            connection.execute(INSERT, ["undone"])
            older.close()
            connection.execute(INSERT, ["a"])
    assert trail.who() == {"a": "ada"}


def test_what_is_put_back_after_a_savepoint_is_put_back_again_when_that_is_rolled_back(
    connection: Connection, trail: Trail
) -> None:
    with actor(connection, "ada"), ExitStack() as inner:
        inner.enter_context(actor(connection, "grace"))
        with connection.transaction():
            with connection.transaction(force_rollback=True):
                inner.close()
                connection.execute(INSERT, ["undone"])
            connection.execute(INSERT, ["a"])
    assert trail.who() == {"a": "ada"}


def test_an_error_of_the_application_leaves_the_block_as_it_is(connection: Connection, trail: Trail) -> None:
    with (
        pytest.raises(psycopg.errors.UniqueViolation),
        connection,
        actor(connection, "ada"),
    ):
        connection.cursor().executemany(INSERT, [["a"], ["a"]])
    assert trail.who() == {}


def test_a_connection_that_breaks_leaves_the_application_s_error_as_it_is(connection: Connection) -> None:
    with pytest.raises(psycopg.OperationalError, match="administrator command"), actor(connection, "ada"):
        connection.execute("select pg_terminate_backend(pg_backend_pid())")


# psycopg: autocommit


def test_a_connection_in_autocommit_is_refused(database: Database) -> None:
    connection = database.connect(autocommit=True)
    with pytest.raises(ValueError, match=r"in autocommit.*begin a transaction first"), actor(connection, "ada"):
        connection.execute("select 1")


def test_in_autocommit_the_block_stands_inside_a_transaction(database: Database, trail: Trail) -> None:
    connection = database.connect(autocommit=True)
    with connection.transaction(), actor(connection, "ada"):
        connection.execute(INSERT, ["a"])
    connection.execute(INSERT, ["later"])
    assert trail.who() == {"a": "ada", "later": "system"}


def test_in_autocommit_a_statement_after_the_transaction_s_end_is_refused(database: Database, trail: Trail) -> None:
    connection = database.connect(autocommit=True)
    connection.execute("begin")
    with actor(connection, "ada"):
        connection.execute(INSERT, ["a"])
        connection.execute("commit")
        with pytest.raises(ValueError, match="in autocommit"):
            connection.execute(INSERT, ["b"])
    assert trail.who() == {"a": "ada"}


# What is sent


def test_one_statement_with_parameters_is_sent_in_a_transaction(connection: Connection) -> None:
    with wire(connection.pgconn) as statements, actor(connection, "ada"):
        connection.execute("select 1")
        connection.execute("select 2")
        connection.commit()
    actor_is_set = (
        "select pg_catalog.set_config('audit.actor_id', $1, true),"
        " pg_catalog.set_config('audit.actor_name', $2, true),"
        " pg_catalog.set_config('audit.actor_type', $3, true)"
    )
    assert statements == ["BEGIN", actor_is_set, "select 1", "select 2", "COMMIT"]


def test_entering_and_leaving_a_block_send_nothing(connection: Connection) -> None:
    with wire(connection.pgconn) as statements, connection.transaction(), actor(connection, "ada"):
        pass
    assert statements == ["BEGIN", "COMMIT"]


@pytest.mark.parametrize("autocommit", [False, True])
def test_nothing_is_left_on_a_connection_that_goes_back_to_its_pool(connection: Connection, autocommit: bool) -> None:
    before = set(vars(connection))
    connection.autocommit = autocommit
    with connection.transaction(), actor(connection, "ada"):
        connection.execute("select 1")
    connection.execute("select 1")
    assert set(vars(connection)) == before


# psycopg, asynchronous


async def test_an_asynchronous_connection_has_the_actor_in_each_transaction(
    async_connection: AsyncConnection, trail: Trail
) -> None:
    async with actor(async_connection, "ada"):
        await async_connection.execute(INSERT, ["first"])
        await async_connection.commit()
        async with async_connection.transaction():
            await async_connection.execute(INSERT, ["second"])
    await async_connection.execute(INSERT, ["after"])
    await async_connection.commit()
    assert trail.who() == {"first": "ada", "second": "ada", "after": "system"}


async def test_asynchronous_blocks_put_back_what_an_open_transaction_had(
    async_connection: AsyncConnection, trail: Trail
) -> None:
    async with async_connection.transaction():
        await async_connection.execute("select audit.set_actor('grace')")
        async with actor(async_connection, "ada"):
            await async_connection.execute(INSERT, ["inside"])
        await async_connection.execute(INSERT, ["after"])
    assert trail.who() == {"inside": "ada", "after": "grace"}


async def test_asynchronous_savepoints_pipelines_and_copy_have_the_actor(
    async_connection: AsyncConnection, trail: Trail
) -> None:
    async with actor(async_connection, "ada"), async_connection.transaction():
        with pytest.raises(psycopg.errors.DivisionByZero):
            async with async_connection.transaction():
                await async_connection.execute("select 1/0")
        async with async_connection.pipeline():
            await async_connection.execute(INSERT, ["pipeline"])
        async with async_connection.cursor().copy("copy note (text) from stdin") as copy:
            await copy.write_row(["copy"])
    assert trail.who() == {"pipeline": "ada", "copy": "ada"}


async def test_an_asynchronous_connection_in_autocommit_is_refused(async_connection: AsyncConnection) -> None:
    await async_connection.set_autocommit(True)
    with pytest.raises(ValueError, match="in autocommit"):
        async with actor(async_connection, "ada"):
            pass


# SQLAlchemy


def test_a_sqlalchemy_connection_has_the_actor_in_each_transaction(engine: sqlalchemy.Engine, trail: Trail) -> None:
    with engine.connect() as connection:
        with actor(connection, "ada"):
            connection.execute(note("first"))
            connection.commit()
            with connection.begin():
                connection.execute(note("second"))
        connection.execute(note("after"))
        connection.commit()
    assert trail.who() == {"first": "ada", "second": "ada", "after": "system"}


def test_an_open_sqlalchemy_transaction_gets_back_what_it_had(engine: sqlalchemy.Engine, trail: Trail) -> None:
    with engine.begin() as connection:
        connection.execute(text("select audit.set_actor('grace')"))
        with actor(connection, "ada"):
            connection.execute(note("inside"))
            with actor(connection, "linus"):
                connection.execute(note("inner"))
        connection.execute(note("after"))
    assert trail.who() == {"inside": "ada", "inner": "linus", "after": "grace"}


def test_a_savepoint_older_than_the_block_is_rolled_back_and_the_actor_is_right(
    engine: sqlalchemy.Engine, trail: Trail
) -> None:
    with engine.begin() as connection:
        savepoint = connection.begin_nested()
        with actor(connection, "ada"):
            connection.execute(note("undone"))
            savepoint.rollback()
            connection.execute(note("a"))
    assert trail.who() == {"a": "ada"}


def test_an_aborted_sqlalchemy_transaction_keeps_its_error_and_goes_on_with_the_outer_actor(
    engine: sqlalchemy.Engine, trail: Trail
) -> None:
    with engine.begin() as connection, actor(connection, "ada"):
        savepoint = connection.begin_nested()
        with pytest.raises(sqlalchemy.exc.DataError, match="division by zero"), actor(connection, "grace"):
            connection.execute(text("select 1/0"))
        savepoint.rollback()
        connection.execute(note("a"))
    assert trail.who() == {"a": "ada"}


def test_set_transaction_may_come_first(engine: sqlalchemy.Engine, trail: Trail) -> None:
    with engine.begin() as connection, actor(connection, "ada"):
        connection.execute(text("set transaction isolation level serializable"))
        connection.execute(note("a"))
    assert trail.who() == {"a": "ada"}


def test_a_session_has_the_actor_in_each_transaction(engine: sqlalchemy.Engine, trail: Trail) -> None:
    with orm.Session(engine) as session:
        with actor(session, "ada"):
            session.add(Note(text="first"))
            session.commit()
            session.add_all([Note(text="second"), Note(text="third")])
            session.commit()
        session.add(Note(text="after"))
        session.commit()
    assert trail.who() == {"first": "ada", "second": "ada", "third": "ada", "after": "system"}


def test_an_open_transaction_of_a_session_gets_the_actor_and_loses_it(engine: sqlalchemy.Engine, trail: Trail) -> None:
    with orm.Session(engine) as session:
        session.execute(note("before"))
        with actor(session, "ada"):
            session.execute(note("inside"))
            with actor(session, "grace"):
                session.execute(note("inner"))
        session.execute(note("after"))
        session.commit()
    assert trail.who() == {"before": "system", "inside": "ada", "inner": "grace", "after": "system"}


def test_a_session_s_nested_transaction_is_rolled_back_and_the_actor_is_right(
    engine: sqlalchemy.Engine, trail: Trail
) -> None:
    with orm.Session(engine) as session, actor(session, "ada"):
        with pytest.raises(sqlalchemy.exc.DataError), session.begin_nested():
            session.execute(text("select 1/0"))
        session.add(Note(text="a"))
        session.commit()
    assert trail.who() == {"a": "ada"}


def test_a_session_whose_flush_failed_keeps_its_error(engine: sqlalchemy.Engine, trail: Trail) -> None:
    with orm.Session(engine) as session:
        session.add_all([Note(text="a"), Note(text="a")])
        with pytest.raises(sqlalchemy.exc.IntegrityError), actor(session, "ada"):
            session.flush()
        session.rollback()
        session.add(Note(text="b"))
        session.commit()
    assert trail.who() == {"b": "system"}


def test_a_block_keeps_no_connection_of_a_session_alive(engine: sqlalchemy.Engine, trail: Trail) -> None:
    with orm.Session(engine) as session, actor(session, "ada"):
        session.add(Note(text="a"))
        session.flush()
        connection = weakref.ref(session.connection())
        session.commit()
        gc.collect()
        assert connection() is None


def test_a_session_joined_to_a_connection_s_transaction_puts_it_back(engine: sqlalchemy.Engine, trail: Trail) -> None:
    with engine.begin() as connection:
        session = orm.Session(connection, join_transaction_mode="create_savepoint")
        with actor(session, "ada"):
            session.add(Note(text="inside"))
            session.commit()
        connection.execute(note("after"))
    assert trail.who() == {"inside": "ada", "after": "system"}


def test_a_scoped_session_has_the_actor(engine: sqlalchemy.Engine, trail: Trail) -> None:
    session = orm.scoped_session(orm.sessionmaker(engine))
    with actor(session, "ada"):
        session.add(Note(text="a"))
        session.commit()
    session.remove()
    assert trail.who() == {"a": "ada"}


def test_sqlalchemy_in_autocommit_is_refused(engine: sqlalchemy.Engine) -> None:
    autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
    with (
        autocommit.connect() as connection,
        pytest.raises(ValueError, match="in autocommit"),
        actor(connection, "ada"),
    ):
        pass
    with orm.Session(autocommit) as session, pytest.raises(ValueError, match="in autocommit"), actor(session, "ada"):
        session.execute(text("select 1"))


def test_sqlalchemy_that_turns_to_autocommit_inside_the_block_is_refused(engine: sqlalchemy.Engine) -> None:
    with engine.connect() as connection, actor(connection, "ada"):
        connection.execution_options(isolation_level="AUTOCOMMIT")
        with pytest.raises(ValueError, match="in autocommit"):
            connection.execute(text("select 1"))


def test_sqlalchemy_sends_one_statement_in_a_transaction(engine: sqlalchemy.Engine) -> None:
    statements: list[str] = []
    sqlalchemy.event.listen(engine, "before_cursor_execute", lambda *given: statements.append(given[2][:17]))
    with orm.Session(engine) as session, actor(session, "ada"), session.begin():
        session.execute(text("select 1"))
        with session.begin_nested():
            session.execute(text("select 2"))
    assert statements == ["with before as ma", "select 1", "SAVEPOINT sa_save", "select 2", "RELEASE SAVEPOINT"]


async def test_an_asynchronous_sqlalchemy_connection_has_the_actor(
    async_engine: asyncio.AsyncEngine, trail: Trail
) -> None:
    async with async_engine.connect() as connection:
        async with actor(connection, "ada"):
            await connection.execute(note("first"))
            await connection.commit()
            await connection.execute(note("second"))
        await connection.execute(note("after"))
        await connection.commit()
    assert trail.who() == {"first": "ada", "second": "ada", "after": "system"}


async def test_an_asynchronous_session_has_the_actor_in_each_transaction(
    async_engine: asyncio.AsyncEngine, trail: Trail
) -> None:
    async with asyncio.AsyncSession(async_engine) as session:
        async with actor(session, "ada"):
            session.add(Note(text="first"))
            await session.commit()
            session.add(Note(text="second"))
            await session.flush()
        session.add(Note(text="after"))
        await session.commit()
    assert trail.who() == {"first": "ada", "second": "ada", "after": "system"}


async def test_an_asynchronous_sqlalchemy_connection_in_autocommit_is_refused(
    async_engine: asyncio.AsyncEngine,
) -> None:
    async with async_engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        with pytest.raises(ValueError, match="in autocommit"):
            async with actor(connection, "ada"):
                pass
