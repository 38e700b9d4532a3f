"""The contract of daybook.django: who an entry names when Django writes, and that Django behaves as without it.

It must not test what Django itself does.
"""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import django
import psycopg
import pytest
from asgiref.sync import async_to_sync, iscoroutinefunction, sync_to_async
from asgiref.testing import ApplicationCommunicator
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from tests.conftest import Database, TestServer
from tests.reading import AS_ADMIN, WORKSPACE, add_key, key_for, opened
from tests.wire import wire

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.django_site.settings"
django.setup()

from django.contrib.auth import login  # noqa: E402
from django.contrib.auth.models import AnonymousUser, Group, User  # noqa: E402
from django.contrib.sessions.middleware import SessionMiddleware  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import (  # noqa: E402
    DataError,
    IntegrityError,
    OperationalError,
    ProgrammingError,
    connection,
    connections,
    transaction,
)
from django.http import HttpRequest, HttpResponse  # noqa: E402
from django.test import AsyncRequestFactory, Client, RequestFactory, override_settings  # noqa: E402
from django.test.utils import CaptureQueriesContext  # noqa: E402
from django.utils.functional import SimpleLazyObject  # noqa: E402

import daybook  # noqa: E402
from daybook.django import ActorMiddleware  # noqa: E402

Connection = psycopg.Connection[tuple[Any, ...]]

TRACK = (
    """
    select audit.enable_tracking('auth_user', resource_type => 'user', resource_name_column => 'username',
                                 workspace => 'site', excluded_columns => '{password, last_login}')""",
    """
    select audit.enable_tracking('auth_group', resource_type => 'group', resource_name_column => 'name',
                                 workspace => 'site')""",
    """
    select audit.enable_tracking('auth_group_permissions', kind => 'permission', resource_type => 'group',
                                 resource_id_columns => '{group_id}', resource_name_column => 'group_id.name',
                                 subject_column => 'permission_id.codename', workspace => 'site')""",
    """
    select audit.enable_tracking('auth_user_groups', kind => 'role', resource_type => 'user',
                                 resource_id_columns => '{user_id}', resource_name_column => 'user_id.username',
                                 subject_column => 'group_id.name', workspace => 'site')""",
)


def use(database: Database) -> None:
    """Let Django's next connection lead to this database."""
    connections.close_all()
    at = conninfo_to_dict(database.url("app_owner"))
    place = {"NAME": at["dbname"], "USER": at["user"], "HOST": at["host"], "PORT": at["port"], "ATOMIC_REQUESTS": False}
    connections.settings["default"].update(place)


@pytest.fixture(scope="module")
def template(server: TestServer) -> Iterator[Database]:
    """The tables of Django's own migrations, tracked by one call each."""
    database = Database(server, f"django_{os.getpid()}")
    postgres = Database(server, "postgres")
    postgres.connect().execute(f"create database {database.name} template {server.template_dbname}".encode())
    use(database)
    call_command("migrate", verbosity=0)
    owner = database.connect("app_owner")
    owner.execute("grant select on auth_user, auth_group, auth_permission to audit_capture")
    for statement in TRACK:
        owner.execute(statement.encode())
    connections.close_all()
    database.close()
    yield database
    postgres.close()


@pytest.fixture
def database(server: TestServer, template: Database) -> Iterator[Database]:
    """A fresh database with Django's tables, which Django uses."""
    database = Database(server, f"{template.name}_test")
    postgres = Database(server, "postgres")
    postgres.connect().execute(f"create database {database.name} template {template.name}".encode())
    use(database)
    yield database
    connections.close_all()
    database.close()
    postgres.connect().execute(f"drop database {database.name} with (force)".encode())
    postgres.close()


@pytest.fixture
def site(database: Database) -> Connection:
    """The superuser's connection to the database that Django uses."""
    return database.connect()


@pytest.fixture
def ada(site: Connection) -> Any:
    return User.objects.create_superuser("ada", "ada@example.org", "secret", first_name="Ada", last_name="Lovelace")


def request_of(user: Any, **headers: str) -> HttpRequest:
    request = RequestFactory().get("/", headers=headers, REMOTE_ADDR="192.0.2.7")
    request.user = user
    return request


def respond(view: Callable[[HttpRequest], Any], user: Any, **headers: str) -> None:
    """Let the middleware pass a request of this user on to the view."""
    ActorMiddleware(view)(request_of(user, **headers))


def who(site: Connection) -> dict[str, str]:
    """Return who made each group."""
    query = "select resource_name, actor_id from audit.timeline where event = 'resource_created' and table_name = %s"
    return dict(site.execute(query, ["auth_group"]).fetchall())


def create(*names: str) -> Callable[[HttpRequest], None]:
    """Return a view that creates groups."""

    def view(request: HttpRequest) -> None:
        for name in names:
            Group.objects.create(name=name)

    return view


# Real input: Django's admin site


def test_a_journey_through_django_s_admin_site_is_the_whole_trail(site: Connection, database: Database) -> None:
    add_key(site, key_for("a"), "site", "admin")
    joined = datetime(2026, 3, 14, 9, 26, 53, 589793, tzinfo=UTC)
    User.objects.create_superuser("ada", "ada@example.org", "secret", first_name="Ada", date_joined=joined)
    User.objects.create_user("grace", "grace@example.org", "secret", date_joined=joined)
    admin = Client(headers={"user-agent": "a browser", "x-request-id": "r1"})
    group = {"name": "editors", "permissions": ["1", "2", "3"]}
    grace = {
        "username": "grace",
        "email": "grace@example.org",
        "is_active": "on",
        "date_joined_0": "2026-03-14",
        "date_joined_1": "09:26:53.589793",
        "groups": ["1"],
    }

    steps = [
        admin.post("/admin/login/", {"username": "ada", "password": "secret", "next": "/admin/"}),
        admin.post("/admin/auth/group/add/", group),
        admin.post("/admin/auth/group/1/change/", {**group, "name": "authors"}),
        admin.post("/admin/auth/user/2/change/", grace),
        admin.post("/admin/auth/user/2/change/", {**grace, "is_staff": "on"}),
        admin.post("/admin/auth/user/2/change/", {**grace, "is_staff": "on"}),
        admin.post("/admin/auth/group/1/delete/", {"post": "yes"}),
    ]

    assert [step.status_code for step in steps] == [302, 302, 302, 302, 302, 302, 302]
    with opened(database) as client:
        body = client.get(WORKSPACE, params={"expand": "changes,context"}, headers=AS_ADMIN).json()
    assert [told(row) for row in reversed(body["results"])] == [
        ("tracking_enabled", "audit_log", "public.auth_user", SYSTEM, 0, []),
        ("tracking_enabled", "audit_log", "public.auth_group", SYSTEM, 0, []),
        ("tracking_enabled", "audit_log", "public.auth_group_permissions", SYSTEM, 0, []),
        ("tracking_enabled", "audit_log", "public.auth_user_groups", SYSTEM, 0, []),
        (
            "resource_created",
            "user",
            "1",
            SYSTEM,
            1,
            [
                {
                    "before": None,
                    "after": {
                        "id": 1,
                        "username": "ada",
                        "first_name": "Ada",
                        "last_name": "",
                        "email": "ada@example.org",
                        "is_superuser": True,
                        "is_staff": True,
                        "is_active": True,
                        "date_joined": "2026-03-14T09:26:53.589793+00:00",
                    },
                }
            ],
        ),
        (
            "resource_created",
            "user",
            "2",
            SYSTEM,
            1,
            [
                {
                    "before": None,
                    "after": {
                        "id": 2,
                        "username": "grace",
                        "first_name": "",
                        "last_name": "",
                        "email": "grace@example.org",
                        "is_superuser": False,
                        "is_staff": False,
                        "is_active": True,
                        "date_joined": "2026-03-14T09:26:53.589793+00:00",
                    },
                }
            ],
        ),
        ("resource_created", "group", "1", ADA, 1, [{"before": None, "after": {"id": 1, "name": "editors"}}]),
        (
            "permission_granted",
            "group",
            "1",
            ADA,
            3,
            [
                {"before": None, "after": {"id": 1, "group_id": 1, "permission_id": 1}},
                {"before": None, "after": {"id": 2, "group_id": 1, "permission_id": 2}},
                {"before": None, "after": {"id": 3, "group_id": 1, "permission_id": 3}},
            ],
        ),
        (
            "resource_updated",
            "group",
            "1",
            ADA,
            1,
            [{"before": {"name": "editors"}, "after": {"name": "authors"}}],
        ),
        (
            "role_assigned",
            "user",
            "2",
            ADA,
            1,
            [{"before": None, "after": {"id": 1, "user_id": 2, "group_id": 1}}],
        ),
        ("resource_updated", "user", "2", ADA, 1, [{"before": {"is_staff": False}, "after": {"is_staff": True}}]),
        (
            "permission_revoked",
            "group",
            "1",
            ADA,
            3,
            [
                {"before": {"id": 1, "group_id": 1, "permission_id": 1}, "after": None},
                {"before": {"id": 2, "group_id": 1, "permission_id": 2}, "after": None},
                {"before": {"id": 3, "group_id": 1, "permission_id": 3}, "after": None},
            ],
        ),
        (
            "role_unassigned",
            "user",
            "2",
            ADA,
            1,
            [{"before": {"id": 1, "user_id": 2, "group_id": 1}, "after": None}],
        ),
        ("resource_deleted", "group", "1", ADA, 1, [{"before": {"id": 1, "name": "authors"}, "after": None}]),
    ]
    assert [requested(row) for row in body["results"]] == 8 * [("r1", "127.0.0.1", "a browser")] + 6 * [
        (None, None, None)
    ]


SYSTEM = {"id": "system", "name": "system"}
ADA = {"id": "1", "name": "Ada"}


def told(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return of an entry what it tells, its rows in the order of their own keys."""
    rows = [{"before": change["before"], "after": change["after"]} for change in row["changes"]["rows"]]
    return (
        row["event"],
        row["resource_type"],
        row["resource_id"],
        row["performer"],
        row["changes"]["row_count"],
        sorted(rows, key=lambda change: (change["before"] or change["after"]).get("id", 0)),
    )


def requested(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return of an entry in which request it was written."""
    return (row["context"]["request_id"], row["context"]["ip"], row["context"]["user_agent"])


def test_with_atomic_requests_the_admin_site_has_the_actor_too(site: Connection, ada: Any) -> None:
    connections.settings["default"]["ATOMIC_REQUESTS"] = True
    admin = Client()
    admin.force_login(ada)
    admin.post("/admin/auth/group/add/", {"name": "editors"})
    assert who(site) == {"editors": "1"}


# Who stands in the entry


def test_the_user_and_the_request_stand_in_the_entry(site: Connection, ada: Any) -> None:
    respond(create("a"), ada, user_agent="curl/8", x_request_id="r1")
    query = "select actor_type, actor_id, actor_name, request_id, context from audit.timeline where table_name = %s"
    context = {"ip": "192.0.2.7", "user_agent": "curl/8"}
    assert site.execute(query, ["auth_group"]).fetchall() == [("user", "1", "Ada Lovelace", "r1", context)]


def test_a_user_without_a_full_name_goes_by_the_user_name(site: Connection) -> None:
    respond(create("a"), User.objects.create_user("grace"))
    query = "select actor_name from audit.timeline where table_name = %s"
    assert site.execute(query, ["auth_group"]).fetchall() == [("grace",)]


def test_nobody_signed_in_is_system_but_the_request_is_known(site: Connection) -> None:
    respond(create("a"), AnonymousUser(), x_request_id="r1")
    query = "select actor_id, request_id, context from audit.timeline where table_name = %s"
    assert site.execute(query, ["auth_group"]).fetchall() == [("system", "r1", {"ip": "192.0.2.7"})]


def test_without_django_s_authentication_the_actor_is_system(site: Connection) -> None:
    ActorMiddleware(create("a"))(RequestFactory().get("/"))
    assert who(site) == {"a": "system"}


def test_outside_a_request_the_actor_is_system(site: Connection, ada: Any) -> None:
    respond(create("a"), ada)
    Group.objects.create(name="b")
    assert who(site) == {"a": "1", "b": "system"}


def test_each_transaction_of_a_request_has_the_actor(site: Connection, ada: Any) -> None:
    def view(request: HttpRequest) -> None:
        Group.objects.create(name="in autocommit")
        with transaction.atomic():
            Group.objects.create(name="in a transaction")
        with transaction.atomic():
            Group.objects.create(name="in another")

    respond(view, ada)
    assert who(site) == {"in autocommit": "1", "in a transaction": "1", "in another": "1"}


def test_a_login_during_the_request_changes_the_actor(site: Connection, ada: Any) -> None:
    def view(request: HttpRequest) -> None:
        with transaction.atomic():
            Group.objects.create(name="before")
            SessionMiddleware(lambda _: HttpResponse()).process_request(request)
            login(request, ada)
            Group.objects.create(name="after")

    respond(view, AnonymousUser())
    assert who(site) == {"before": "system", "after": "1"}


def test_a_request_s_user_is_signed_where_a_key_is_set(site: Connection, ada: Any) -> None:
    site.execute("select audit.require_signed_actor('auth_group')")
    row = site.execute("select audit.add_actor_key('django')").fetchone()
    assert row is not None

    def view(request: HttpRequest) -> HttpResponse:
        for name in ("one", "two"):
            with transaction.atomic():
                Group.objects.create(name=name)
                Group.objects.filter(name=name).update(name=f"{name} more")
        return HttpResponse()

    request = RequestFactory().post("/")
    request.user = ada
    daybook.sign_with(str(row[0]))
    try:
        ActorMiddleware(view)(request)
    finally:
        daybook.sign_with(None)
    names = "select distinct actor_name, length(request_id) from audit.entry where table_name = 'auth_group'"
    assert site.execute(names).fetchall() == [("Ada Lovelace", 32)]
    with pytest.raises(ProgrammingError) as refused:
        Group.objects.create(name="three")
    assert daybook.refusal(refused.value) == "missing"


def test_requests_that_share_a_transaction_do_not_share_the_actor(site: Connection, ada: Any) -> None:
    grace = User.objects.create_user("grace")
    with transaction.atomic():
        Group.objects.create(name="none")
        respond(create("a"), ada)
        respond(create("b"), grace)
        respond(create("c"), AnonymousUser())
        Group.objects.create(name="none again")
    assert who(site) == {"none": "system", "a": "1", "b": "2", "c": "system", "none again": "system"}


def test_an_actor_that_the_application_sets_itself_is_kept(site: Connection, ada: Any) -> None:
    def view(request: HttpRequest) -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("select audit.set_actor('importer', type => 'service')")
            Group.objects.create(name="a")

    respond(view, ada)
    assert who(site) == {"a": "importer"}


# Rollbacks and errors


def test_after_a_savepoint_is_rolled_back_the_actor_is_right(site: Connection, ada: Any) -> None:
    def view(request: HttpRequest) -> None:
        with transaction.atomic():
            Group.objects.create(name="a")
            with pytest.raises(IntegrityError), transaction.atomic():
                Group.objects.create(name="a")
            Group.objects.create(name="b")

    respond(view, ada)
    assert who(site) == {"a": "1", "b": "1"}


def test_an_actor_set_after_a_savepoint_is_set_again_when_that_is_rolled_back(site: Connection, ada: Any) -> None:
    with transaction.atomic():
        savepoint = transaction.savepoint()
        respond(rolling_back(savepoint), ada)
    assert who(site) == {"a": "1"}


def rolling_back(savepoint: str) -> Callable[[HttpRequest], None]:
    """Return a view that writes, takes that back, and writes again."""

    def view(request: HttpRequest) -> None:
        Group.objects.create(name="undone")
        transaction.savepoint_rollback(savepoint)
        Group.objects.create(name="a")

    return view


def test_an_actor_who_changes_after_a_savepoint_is_set_again_when_that_is_rolled_back(
    site: Connection, ada: Any
) -> None:
    def view(request: HttpRequest) -> None:
        with transaction.atomic():
            savepoint = transaction.savepoint()
            request.user = ada
            rolling_back(savepoint)(request)

    respond(view, AnonymousUser())
    assert who(site) == {"a": "1"}


def test_set_rollback_takes_back_the_writes_and_the_next_transaction_has_the_actor(site: Connection, ada: Any) -> None:
    def view(request: HttpRequest) -> None:
        with transaction.atomic():
            Group.objects.create(name="undone")
            transaction.set_rollback(True)
        Group.objects.create(name="a")

    respond(view, ada)
    assert who(site) == {"a": "1"}


def test_errors_in_autocommit_are_django_s_and_the_connection_goes_on(site: Connection, ada: Any) -> None:
    def view(request: HttpRequest) -> None:
        Group.objects.create(name="a")
        with pytest.raises(IntegrityError, match="auth_group_name_key"):
            Group.objects.create(name="a")
        Group.objects.create(name="b")

    respond(view, ada)
    assert who(site) == {"a": "1", "b": "1"}
    assert connection.get_autocommit()


def test_in_a_broken_transaction_the_error_is_django_s(site: Connection, ada: Any) -> None:
    def view(request: HttpRequest) -> None:
        with transaction.atomic():
            with suppress(DataError), transaction.atomic(savepoint=False):
                execute("select 1/0 from auth_group")(request)
            Group.objects.create(name="a")

    with pytest.raises(transaction.TransactionManagementError, match="until the end of the 'atomic' block"):
        respond(view, ada)
    assert who(site) == {}


def test_a_connection_that_is_lost_is_django_s_error(site: Connection, ada: Any) -> None:
    site.execute("select pg_terminate_backend(%s, 1000)", [connection.connection.info.backend_pid])
    with pytest.raises(OperationalError):
        respond(create("a"), ada)


# What is sent


ACTOR_IS_SET = "select pg_catalog.set_config('audit.actor_id', '1', true), pg_catalog.set_config('audit.actor_name'"


def sent(view: Callable[[HttpRequest], Any], user: Any) -> list[str]:
    """Return the beginnings of the statements that a request sends."""
    with wire(connection.connection.pgconn) as statements:
        respond(view, user)
    return [statement[: len(ACTOR_IS_SET)] if "set_config" in statement else statement[:20] for statement in statements]


def test_a_write_in_autocommit_runs_in_a_transaction_of_its_own(ada: Any) -> None:
    assert sent(create("a", "b"), ada) == 2 * [
        "BEGIN",
        ACTOR_IS_SET,
        'INSERT INTO "auth_gr',
        "COMMIT",
    ]


def test_in_a_transaction_the_actor_is_set_once_before_the_first_write(ada: Any) -> None:
    def view(request: HttpRequest) -> None:
        with transaction.atomic():
            Group.objects.count()
            create("a", "b")(request)

    assert sent(view, ada) == [
        "BEGIN",
        'SELECT COUNT(*) AS "',
        ACTOR_IS_SET,
        'INSERT INTO "auth_gr',
        'INSERT INTO "auth_gr',
        "COMMIT",
    ]


def test_reads_send_nothing_extra_and_do_not_ask_who_reads(ada: Any) -> None:
    def view(request: HttpRequest) -> None:
        list(Group.objects.all())
        list(Group.objects.iterator())
        with transaction.atomic():
            Group.objects.filter(name="a").exists()

    statements = sent(view, SimpleLazyObject(lambda: pytest.fail("the user was looked up")))
    assert statements == [
        'SELECT "auth_group".',
        'DECLARE "_django_cur',
        "FETCH FORWARD 2000 F",
        'CLOSE "_django_curs_',
        "BEGIN",
        'SELECT 1 AS "a" FROM',
        "COMMIT",
    ]


def test_the_user_is_looked_up_once_by_the_first_write(site: Connection, ada: Any) -> None:
    asked: list[str] = []

    def look_up() -> Any:
        asked.append("once")
        return User.objects.get(username="ada")

    def view(request: HttpRequest) -> None:
        with transaction.atomic():
            Group.objects.count()
            create("a", "b")(request)

    respond(view, SimpleLazyObject(look_up))
    assert asked == ["once"]
    assert who(site) == {"a": "1", "b": "1"}


def test_a_look_up_that_writes_does_not_ask_itself(site: Connection, ada: Any) -> None:
    def look_up() -> Any:
        Group.objects.create(name="looked up")
        return ada

    respond(create("a"), SimpleLazyObject(look_up))
    assert who(site) == {"looked up": "system", "a": "1"}


def test_django_counts_the_same_queries_as_without_the_middleware(site: Connection, ada: Any) -> None:
    def view(request: HttpRequest) -> None:
        with transaction.atomic():
            create(request.path)(request)

    with CaptureQueriesContext(connection) as without:
        view(RequestFactory().get("/a"))
    with CaptureQueriesContext(connection) as with_actor:
        respond(view, ada)
    assert [query["sql"].replace("/a", "/") for query in without] == [query["sql"] for query in with_actor]


@pytest.mark.parametrize(
    "statement",
    [
        "select 1",
        "/* a comment */ select name from auth_group",
        "(select 1 from auth_group) union (select 2)",
        "with a as (select 1) select * from a",
        "select count(*) from auth_group",
        "explain select 1",
        "show timezone",
        "set timezone = 'UTC'",
        "vacuum auth_group",
        "analyze auth_group",
        "create index concurrently by_name on auth_group (name)",
        "reindex table auth_group",
        "call commits()",
        "do $$ begin commit; end $$",
    ],
)
def test_what_only_reads_or_runs_alone_is_sent_as_it_is(site: Connection, ada: Any, statement: str) -> None:
    site.execute("create procedure commits() language plpgsql as 'begin commit; end'")
    assert sent(execute(statement), ada) == [statement[:20]]


@pytest.mark.parametrize(
    "statement",
    [
        "insert into auth_group (name) values ('a')",
        b"insert into auth_group (name) values ('a')",
        sql.SQL("insert into {} (name) values ('a')").format(sql.Identifier("auth_group")),
        "-- a comment\n insert into auth_group (name) values ('a')",
        "with a as (insert into auth_group (name) values ('a') returning 1) select * from a",
        "explain analyze insert into auth_group (name) values ('a')",
        "select writes('a')",
        "select * from writes('a')",
        "do $$ begin perform writes('a'); end $$",
    ],
)
def test_whatever_may_write_has_the_actor_in_autocommit(site: Connection, ada: Any, statement: Any) -> None:
    site.execute(
        "create function writes(text) returns text language sql security definer"
        " as 'insert into public.auth_group (name) values ($1) returning name'"
    )
    respond(execute(statement), ada)
    assert who(site) == {"a": "1"}


def execute(statement: Any) -> Callable[[HttpRequest], None]:
    """Return a view that sends one statement by hand."""

    def view(request: HttpRequest) -> None:
        with connection.cursor() as cursor:
            cursor.execute(statement)

    return view


def test_executemany_has_the_actor(site: Connection, ada: Any) -> None:
    def view(request: HttpRequest) -> None:
        with connection.cursor() as cursor:
            cursor.executemany("insert into auth_group (name) values (%s)", [["a"], ["b"]])

    respond(view, ada)
    assert who(site) == {"a": "1", "b": "1"}


# Connections


def test_execute_wrappers_of_others_stay_theirs(site: Connection, ada: Any) -> None:
    connection.execute_wrappers.clear()
    seen: list[str] = []

    def spy(execute: Callable[..., Any], *arguments: Any) -> Any:
        seen.append(arguments[0])
        return execute(*arguments)

    with connection.execute_wrapper(spy):
        respond(create("a"), ada)
    respond(create("b"), ada)
    assert [statement[:24] for statement in seen] == ['INSERT INTO "auth_group"']
    assert who(site) == {"a": "1", "b": "1"}


def test_a_database_that_the_setting_leaves_out_is_not_watched(site: Connection, ada: Any) -> None:
    connections.close_all()
    del connections["default"]
    with override_settings(DAYBOOK_DATABASES=["other"]):
        respond(create("a"), ada)
    assert who(site) == {"a": "system"}


def test_a_connection_opened_during_the_request_is_watched(site: Connection, ada: Any) -> None:
    async def view(request: HttpRequest) -> None:
        await sync_to_async(create("a"), thread_sensitive=False)(request)
        await sync_to_async(connections.close_all, thread_sensitive=False)()

    respond(async_to_sync(view), ada)
    assert who(site) == {"a": "1"}


def test_an_asynchronous_view_has_the_actor(site: Connection, ada: Any) -> None:
    async def view(request: HttpRequest) -> None:
        await Group.objects.acreate(name="a")
        await Group.objects.filter(name="a").aupdate(name="b")

    connection.execute_wrappers.clear()
    middleware = ActorMiddleware(view)
    assert iscoroutinefunction(middleware)
    async_to_sync(middleware)(request_of(ada))
    assert who(site) == {"a": "1"}


def test_the_admin_site_over_asgi_has_the_actor(site: Connection, ada: Any) -> None:
    client = Client()
    client.force_login(ada)
    factory: Any = AsyncRequestFactory()
    factory.cookies = client.cookies
    factory.cookies["csrftoken"] = "c" * 32
    request = factory.post("/admin/auth/group/add/", {"name": "a"}, headers={"x-csrftoken": "c" * 32})
    communicator: Any = ApplicationCommunicator

    async def post() -> int:
        application = communicator(get_asgi_application(), request.scope)
        await application.send_input({"type": "http.request", "body": request.body})
        start = await application.receive_output(10)
        await application.wait(10)
        return int(start["status"])

    assert async_to_sync(post)() == 302
    assert who(site) == {"a": "1"}


def test_requests_at_the_same_time_do_not_share_the_actor(site: Connection, ada: Any) -> None:
    grace = User.objects.create_user("grace")

    async def view(request: HttpRequest) -> None:
        await Group.objects.acreate(name=f"{request.user} first")
        await asyncio.sleep(0.05)
        await Group.objects.acreate(name=f"{request.user} second")

    async def both() -> None:
        middleware = ActorMiddleware(view)
        await asyncio.gather(middleware(request_of(ada)), middleware(request_of(grace)))

    async_to_sync(both)()
    assert who(site) == {"ada first": "1", "ada second": "1", "grace first": "2", "grace second": "2"}
