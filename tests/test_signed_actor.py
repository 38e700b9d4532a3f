"""A table or login that demands it believes an actor only when the application signed it, for this request, lately."""

import hashlib
import hmac
import pickle
import time
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy
from psycopg.errors import InsufficientPrivilege

import daybook
from daybook import signatures
from daybook.settings import SettingError
from tests.conftest import Database
from tests.trail import Connection, trail

ADA = {"actor_type": "user", "actor_id": "42", "actor_name": "Ada", "request_id": "r-1"}


def signed(key: str, named: dict[str, str] = ADA, ends: int | None = None, database: str | None = None) -> str:
    """What docs/signed-actors.md says a signature is, without the code under test."""
    end = f"{int(time.time()) + 60 if ends is None else ends:010}"
    secret, _, own = key.partition("-")[2].partition("-")[2].partition("@")
    fields = ["daybook actor 1", database or own, end, *(named[n] for n in ("actor_type", "actor_id", "actor_name"))]
    message = "\0".join([*fields, named["request_id"]]).encode()
    digest = hmac.new(urlsafe_b64decode(secret + "="), message, hashlib.sha256).hexdigest()
    return f"{key[6:14]}.{end}.{digest}"


def name(connection: Connection, named: dict[str, str], signature: str = "") -> None:
    for setting, value in {**named, "signature": signature}.items():
        connection.execute("select set_config('audit.' || %s, %s, true)", [setting, value])


def problem(connection: Connection, statement: str = "insert into document (workspace_id) values ('acme')") -> str:
    """What a write is refused for, in words, the transaction rolled back; nothing: it is not refused."""
    try:
        connection.execute(statement.encode())
    except InsufficientPrivilege as error:
        refused = error.diag.constraint_name == "actor_is_signed"
        return str(error.diag.message_primary).partition(": ")[2] if refused else f"another error: {error}"
    finally:
        connection.rollback()
    return ""


@pytest.fixture(autouse=True)
def _no_key_of_another_test() -> Iterator[None]:
    daybook.sign_with(None)
    yield
    daybook.sign_with(None)


@pytest.fixture
def key(db: Connection) -> str:
    """A key, and a table that demands signed actors."""
    db.execute("create table document (id serial primary key, workspace_id text, title text)")
    db.execute("create table note (id serial primary key, workspace_id text)")
    db.execute("grant all on document, note, document_id_seq, note_id_seq to app_user")
    db.execute("select audit.enable_tracking('document'), audit.enable_tracking('note')")
    db.execute("select audit.require_signed_actor('document')")
    row = db.execute("select audit.add_actor_key('web')").fetchone()
    assert row is not None
    return str(row[0])


@pytest.fixture
def user(key: str, database: Database) -> Connection:
    return database.connect("app_user", autocommit=False)


def test_a_signed_actor_is_written(db: Connection, user: Connection, key: str) -> None:
    name(user, ADA, signed(key))
    user.execute("insert into document (workspace_id) values ('acme')")
    user.execute("update document set title = 'x'")
    user.execute("insert into document (workspace_id) values ('acme'), ('acme')")
    user.execute("truncate document")
    user.commit()
    assert trail(db, "operation, actor_id, actor_name, request_id") == [
        ("INSERT", "42", "Ada", "r-1"),
        ("UPDATE", "42", "Ada", "r-1"),
        ("INSERT", "42", "Ada", "r-1"),
        ("TRUNCATE", "42", "Ada", "r-1"),
    ]


def test_what_is_named_otherwise_after_signing_is_refused(user: Connection, key: str) -> None:
    for changed in ("actor_id", "actor_name", "actor_type", "request_id"):
        name(user, ADA, signed(key))
        user.execute("select set_config('audit.' || %s, 'service', true)", [changed])
        assert problem(user) == "the actor has a signature that does not fit", changed


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"actor_id": "4", "actor_name": "2Ada"}, {"actor_id": "42", "actor_name": "Ada"}),
        ({"actor_name": "Ada", "request_id": ""}, {"actor_name": "", "request_id": "Ada"}),
    ],
)
def test_values_do_not_run_into_each_other(
    user: Connection, key: str, first: dict[str, str], second: dict[str, str]
) -> None:
    name(user, ADA | second, signed(key, ADA | first))
    assert problem(user) == "the actor has a signature that does not fit"


def test_each_statement_that_writes_is_judged(user: Connection, key: str) -> None:
    for statement in (
        "insert into document (workspace_id) values ('acme')",
        "insert into document (workspace_id) select 'acme' from generate_series(1, 3)",
        "truncate document",
        "do $$ begin insert into document (workspace_id) values ('acme'); end $$",
    ):
        name(user, ADA)
        assert problem(user, statement) == "the actor is not signed"
        name(user, ADA, signed(key))
        assert problem(user, statement) == ""
    assert problem(user, "delete from document") == ""


def test_a_write_without_an_actor_is_refused_though_it_be_a_superusers(db: Connection, user: Connection) -> None:
    assert problem(user) == "the actor is not named"
    with pytest.raises(InsufficientPrivilege, match="the actor is not named"):
        db.execute("insert into document (workspace_id) values ('acme')")
    assert trail(db) == []


def test_a_signature_is_refused_once_it_has_expired(user: Connection, key: str) -> None:
    name(user, ADA, signed(key, ends=int(time.time()) - 1))
    assert problem(user) == "the actor has a signature that has expired"


def test_a_statement_that_outlasts_its_signature_is_written(db: Connection, user: Connection, key: str) -> None:
    name(user, ADA, signed(key, ends=int(time.time()) + 2))
    user.execute("insert into document (workspace_id) select 'acme' from pg_sleep(2.1)")
    user.commit()
    assert trail(db, "actor_id") == [("42",)]
    name(user, ADA, signed(key, ends=int(time.time())))
    assert problem(user) == "the actor has a signature that has expired"


def test_a_signature_of_no_key_is_refused(user: Connection) -> None:
    forms = ("x", "0" * 84, f"00000000.9999999999.{'0' * 64}", "' or true --", "\u20ac" * 84, f"0.9.{'G' * 80}")
    for signature in forms:
        name(user, ADA, signature)
        assert problem(user) == "the actor has a signature that does not fit", signature


def test_a_signature_for_another_database_is_refused(user: Connection, key: str) -> None:
    name(user, ADA, signed(key, database="staging"))
    assert problem(user) == "the actor has a signature that does not fit"


def test_a_request_s_signature_serves_that_request_alone_as_long_as_it_holds(
    database: Database, user: Connection, key: str
) -> None:
    seen = signed(key)
    thief = database.connect("app_user", autocommit=False)
    name(thief, ADA, seen)
    assert problem(thief) == ""
    name(thief, ADA | {"request_id": "r-2"}, seen)
    assert problem(thief) == "the actor has a signature that does not fit"
    name(thief, ADA | {"actor_name": "Grace"}, seen)
    assert problem(thief) == "the actor has a signature that does not fit"


def test_neither_a_definer_function_nor_set_role_nor_a_savepoint_gets_past_it(
    db: Connection, user: Connection, key: str
) -> None:
    db.execute(
        "create function as_boss() returns void language plpgsql security definer as"
        " $$ begin perform set_config('audit.actor_id', 'boss', true);"
        " insert into document (workspace_id) values ('acme'); end $$"
    )
    name(user, ADA, signed(key))
    assert problem(user, "select as_boss()") == "the actor has a signature that does not fit"
    db.execute("grant pg_monitor to app_user")
    name(user, ADA, signed(key))
    user.execute("set local role pg_monitor")
    user.execute("select set_config('audit.actor_id', 'boss', true)")
    user.execute("reset role")
    assert problem(user) == "the actor has a signature that does not fit"
    db.execute("revoke pg_monitor from app_user")
    user.execute("savepoint here")
    name(user, ADA, signed(key))
    user.execute("rollback to here")
    assert problem(user) == "the actor is not named"


def test_a_cascade_into_a_table_that_demands_it_is_judged_too(db: Connection, user: Connection, key: str) -> None:
    db.execute("alter table document add note integer references note on delete cascade")
    name(user, ADA, signed(key))
    user.execute("insert into note (workspace_id) values ('acme')")
    user.execute("insert into document (workspace_id, note) values ('acme', 1)")
    user.commit()
    assert problem(user, "delete from note") == "the actor is not named"


def test_tables_that_do_not_demand_it_are_written_as_ever(db: Connection, user: Connection) -> None:
    name(user, ADA, "nonsense")
    user.execute("insert into note (workspace_id) values ('acme')")
    user.commit()
    assert trail(db, "table_name, actor_id") == [("note", "42")]
    bodies = "select prosrc ~ 'refuse_unsigned_actor' from pg_proc where proname ~ '^capture_[0-9]+$' order by oid"
    assert db.execute(bodies.encode()).fetchall() == [(True,), (False,)]


def test_a_login_can_demand_it_of_every_table_and_of_what_it_records(
    db: Connection, user: Connection, database: Database, key: str
) -> None:
    db.execute("grant audit_writer to app_user; select audit.require_signed_actor_of('app_user')")
    try:
        db.execute("create table later (id serial primary key, workspace_id text)")
        db.execute("select audit.enable_tracking('later'); grant all on later, later_id_seq to app_user")
        record = "select audit.record('note_viewed', 'note')"
        for statement in (
            "insert into note (workspace_id) values ('acme')",
            "insert into later (workspace_id) values ('acme')",
            record,
        ):
            name(user, ADA)
            assert problem(user, statement) == "the actor is not signed"
            name(user, ADA, signed(key))
            assert problem(user, statement) == ""
        db.execute("insert into note (workspace_id) values ('acme')")
        # The log's own events fail nothing: who did it is not believed.
        name(user, ADA)
        user.execute("create temporary table t (id int)")
        user.commit()
        db.execute("select audit.require_signed_actor_of('app_user', false)")
        name(user, ADA)
        assert problem(user, "insert into note (workspace_id) values ('acme')") == ""
    finally:
        db.execute("revoke audit_writer from app_user")
    with pytest.raises(psycopg.errors.UndefinedObject, match="there is no login nobody"):
        db.execute("select audit.require_signed_actor_of('nobody')")


def test_the_log_s_own_events_name_nobody_whose_proof_is_missing(db: Connection, database: Database, key: str) -> None:
    db.execute("select audit.require_signed_actor_of('app_owner')")
    owner = database.connect("app_owner", autocommit=False)
    owner.execute("create table mine (id integer primary key, workspace_id text)")
    name(owner, ADA)
    owner.execute("select audit.enable_tracking('mine')")
    owner.commit()
    name(owner, ADA, signed(key))
    owner.execute("select audit.disable_tracking('mine')")
    owner.commit()
    events = (
        "select event, actor_id, context -> 'invalid' ->> 'unsigned_actor_id' from audit.entry"
        " where resource_id = 'public.mine' order by id"
    )
    assert db.execute(events).fetchall() == [("tracking_enabled", "system", "42"), ("tracking_disabled", "42", None)]


def test_the_demand_is_an_entry_and_outlives_enable_tracking(db: Connection, user: Connection, key: str) -> None:
    db.execute("select audit.enable_tracking('document', max_value_bytes => 100)")
    name(user, ADA)
    assert problem(user) == "the actor is not signed"
    db.execute("select audit.require_signed_actor('document'), audit.require_signed_actor('document', false)")
    assert problem(user) == ""
    said = "select context -> 'details' ->> 'signed_actor' from audit.entry where event ~ 'changed' order by id"
    assert db.execute(said).fetchall() == [("true",), (None,), ("false",)]


def test_only_the_tables_owner_makes_the_demand(db: Connection, database: Database, key: str) -> None:
    rival = database.connect("rival")
    with pytest.raises(InsufficientPrivilege, match="permission denied for table document"):
        rival.execute("select audit.require_signed_actor('document', false)")
    with pytest.raises(InsufficientPrivilege, match="must be owner of"):
        rival.execute("select audit.store_signed_actor('document'::regclass, false)")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="is not tracked"):
        db.execute("create table plain (id int); select audit.require_signed_actor('plain')")


def test_no_login_reads_a_key(database: Database, key: str) -> None:
    for login in ("app_user", "app_owner", "reader", "dba", "maintainer"):
        connection = database.connect(login)
        for column in ("inner_key", "outer_key"):
            with pytest.raises(InsufficientPrivilege):
                connection.execute(f"select {column} from audit.actor_key".encode())


def test_several_keys_hold_at_once_and_a_revoked_one_no_longer(
    db: Connection, user: Connection, database: Database, key: str
) -> None:
    maintainer = database.connect("maintainer")
    (second,) = maintainer.execute("select audit.add_actor_key('next')").fetchone() or ("",)
    for one in (key, second):
        name(user, ADA, signed(one))
        assert problem(user) == ""
    assert maintainer.execute("select audit.revoke_actor_key(%s)", [key[6:14]]).fetchone() == (True,)
    name(user, ADA, signed(key))
    assert problem(user) == "the actor has a signature that does not fit"
    name(user, ADA, signed(second))
    assert problem(user) == ""
    assert maintainer.execute("select audit.revoke_actor_key('00000000')").fetchone() == (False,)
    events = "select event, resource_id = %s from audit.entry where event ~ '^key_' order by id"
    assert db.execute(events, [key[6:14]]).fetchall() == [
        ("key_created", True),
        ("key_created", False),
        ("key_revoked", True),
    ]


def test_a_key_stands_in_no_entry_and_is_no_statement_s_text(db: Connection, key: str) -> None:
    secret = key.partition("-")[2].partition("-")[2].partition("@")[0]
    raw = urlsafe_b64decode(secret + "=").hex()
    queries = "(select string_agg(query, ' ') from pg_stat_activity)"
    said = db.execute(f"select string_agg(e::text, ' ') || {queries} from audit.entry e".encode())
    (text,) = said.fetchone() or ("",)
    assert secret not in text
    assert raw not in text
    assert "web" in text


# The helpers


def test_the_helper_signs_in_the_one_statement_that_it_sends(db: Connection, database: Database, key: str) -> None:
    daybook.sign_with(key)
    connection = database.connect("app_user", autocommit=False)
    with daybook.actor(connection, 42, "Ada", request_id="r-1"):
        connection.execute("insert into document (workspace_id) values ('acme')")
        with daybook.actor(connection, "Böß\0", "\U0001f600 '\\", type="service"):
            connection.execute("insert into document (workspace_id) values ('acme')")
        connection.execute("insert into document (workspace_id) values ('acme')")
        connection.commit()
        connection.execute("insert into document (workspace_id) values ('acme')")
    connection.commit()
    assert trail(db, "actor_type, actor_id, actor_name, request_id") == [
        ("user", "42", "Ada", "r-1"),
        ("service", "Böß\ufffd", "\U0001f600 '\\", "r-1"),
        ("user", "42", "Ada", "r-1"),
        ("user", "42", "Ada", "r-1"),
    ]


def test_a_block_without_a_request_id_signs_for_one_of_its_own(db: Connection, database: Database, key: str) -> None:
    daybook.sign_with(key)
    connection = database.connect("app_user", autocommit=False)
    connection.execute("select 1")
    with daybook.actor(connection, 42):
        connection.execute("insert into document (workspace_id) values ('acme')")
    connection.commit()
    with daybook.actor(connection, 42):
        connection.execute("insert into document (workspace_id) values ('acme')")
    connection.commit()
    assert trail(db, "length(request_id)") == [(32,), (32,)]
    ids = "select count(distinct request_id) from audit.entry where event = 'resource_created'"
    assert db.execute(ids.encode()).fetchone() == (2,)


def test_a_transaction_that_outlives_its_signature_is_signed_again(
    db: Connection, database: Database, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    daybook.sign_with(daybook.ActorKey(key, lifetime=1))
    connection = database.connect("app_user", autocommit=False)
    with daybook.actor(connection, 42):
        connection.execute("insert into document (workspace_id) values ('acme')")
        connection.execute("select pg_sleep(1.1)")
        connection.execute("insert into document (workspace_id) values ('acme')")
        connection.execute("insert into document (workspace_id) values ('acme')")
    connection.commit()
    assert trail(db, "actor_id") == [("42",), ("42",), ("42",)]


def test_sqlalchemy_s_connections_and_sessions_sign_too(db: Connection, database: Database, key: str) -> None:
    daybook.sign_with(key)
    engine = sqlalchemy.create_engine(database.url("app_user").replace("postgresql:", "postgresql+psycopg:"))
    insert = sqlalchemy.text("insert into document (workspace_id) values ('acme')")
    with engine.begin() as connection, daybook.actor(connection, 1):
        connection.execute(insert)
    with sqlalchemy.orm.Session(engine) as session, daybook.actor(session, 2, request_id="r-2"):
        session.execute(insert)
        session.commit()
        session.execute(insert)
        session.commit()
    engine.dispose()
    assert trail(db, "actor_id, request_id = 'r-2'") == [("1", False), ("2", True), ("2", True)]


def test_why_a_write_was_refused_is_told_by_the_helper(database: Database, key: str) -> None:
    daybook.sign_with(daybook.ActorKey(key, lifetime=-5))
    connection = database.connect("app_user", autocommit=False)
    with pytest.raises(InsufficientPrivilege) as expired, daybook.actor(connection, 42):
        connection.execute("insert into document (workspace_id) values ('acme')")
    connection.rollback()
    assert daybook.refusal(expired.value) == "expired"
    daybook.sign_with(f"{key[:-1]}-")
    with pytest.raises(InsufficientPrivilege) as wrong, daybook.actor(connection, 42):
        connection.execute("insert into document (workspace_id) values ('acme')")
    connection.rollback()
    assert daybook.refusal(wrong.value) == "wrong"
    engine = sqlalchemy.create_engine(database.url("app_user").replace("postgresql:", "postgresql+psycopg:"))
    with pytest.raises(sqlalchemy.exc.ProgrammingError) as missing, engine.begin() as begun:
        begun.execute(sqlalchemy.text("insert into document (workspace_id) values ('acme')"))
    engine.dispose()
    assert daybook.refusal(missing.value) == "missing"
    with pytest.raises(InsufficientPrivilege) as other:
        connection.execute("select * from audit.entry")
    assert daybook.refusal(other.value) is None


def test_a_key_is_read_from_the_environment_or_a_file_and_shown_nowhere(tmp_path: Path) -> None:
    text = "actor-0a1b2c3d-" + "k" * 43 + "@app"
    (tmp_path / "key").write_text(f"{text}\n", encoding="utf-8")
    for environment in ({"DAYBOOK_ACTOR_KEY": text}, {"DAYBOOK_ACTOR_KEY_FILE": str(tmp_path / "key")}):
        key = signatures._key_of(environment)
        assert repr(key) == "<ActorKey 0a1b2c3d>"
        assert key is not None
        assert key.sign(ADA, now=1_000_000_000) == signed(text, ends=1_000_000_300)
        with pytest.raises(TypeError):
            pickle.dumps(key)
    assert signatures._key_of({}) is None
    for wrong in ("kkkk", text[:-8], text.replace("k", "\u00e9", 1)):
        with pytest.raises(SettingError) as error:
            signatures._key_of({"DAYBOOK_ACTOR_KEY": wrong})
        assert str(error.value) == "DAYBOOK_ACTOR_KEY cannot be used: it is no key that audit.add_actor_key returned"
    with pytest.raises(SettingError, match="DAYBOOK_ACTOR_LIFETIME is no number of seconds"):
        signatures._key_of({"DAYBOOK_ACTOR_KEY": text, "DAYBOOK_ACTOR_LIFETIME": "soon"})
