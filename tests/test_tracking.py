"""Turning tracking on and off: idempotent, recorded, by the table's owner, and clear about what it refuses."""

import psycopg
import pytest

from tests.conftest import Database
from tests.trail import Connection, count, own_events, trail


@pytest.fixture
def document(db: Connection) -> Connection:
    db.execute("create table document (id integer primary key, workspace_id text, title text, folder_id integer)")
    return db


def enabled(db: Connection, arguments: str) -> None:
    db.execute(f"select audit.enable_tracking('document', {arguments})".encode())


def test_enabling_changing_and_disabling_are_entries(document: Connection) -> None:
    document.execute("select audit.enable_tracking('document')")
    document.execute("select audit.enable_tracking('document')")
    document.execute("select audit.enable_tracking('document', redacted_columns => '{title}')")
    document.execute("select audit.disable_tracking('document')")
    document.execute("select audit.disable_tracking('document')")
    assert own_events(document) == [
        ("tracking_enabled", "public.document"),
        ("tracking_changed", "public.document"),
        ("tracking_disabled", "public.document"),
    ]


def test_other_arguments_replace_the_settings(document: Connection) -> None:
    enabled(document, "redacted_columns => '{title}'")
    enabled(document, "workspace => 'acme'")
    document.execute("insert into document values (1, 'other', 'T', null)")
    assert trail(document, "workspace_id, after->>'title'") == [("acme", "T")]


def test_after_disabling_nothing_of_ours_is_left_on_the_table(document: Connection) -> None:
    document.execute("select audit.enable_tracking('document')")
    document.execute("select audit.disable_tracking('document')")
    document.execute("insert into document values (1, 'acme', 'T', null)")
    assert trail(document) == []
    assert count(document, "select count(*) from pg_trigger where tgrelid = 'document'::regclass") == 0
    assert count(document, "select count(*) from pg_proc where proname like 'capture\\_%' and proname ~ '[0-9]$'") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("'thing'", "kind: 'thing' is none of resource, permission, role"),
        ("'permission'", "resource_id_columns: required for kind permission"),
        ("'role'", "resource_id_columns: required for kind role"),
        ("resource_id_columns => '{nope}'", "resource_id_columns: table public.document has no column nope"),
        ("resource_name_column => 'nope'", "resource_name_column: table public.document has no column nope"),
        ("resource_type_column => 'nope'", "resource_type_column: table public.document has no column nope"),
        ("subject_column => 'nope.name'", "subject_column: table public.document has no column nope"),
        ("subject_column => 'title.name'", "subject_column: column title has no foreign key of one column to follow"),
        ("soft_delete_column => 'nope'", "soft_delete_column: table public.document has no column nope"),
        ("excluded_columns => '{title,nope}'", "excluded_columns: table public.document has no column nope"),
        ("redacted_columns => '{nope}'", "redacted_columns: table public.document has no column nope"),
        ('events => \'{"UPSERT": "a_b"}\'', "events: unknown operation UPSERT"),
        ('events => \'{"INSERT": "Bad"}\'', "event 'Bad' is not of the form noun_pastparticiple"),
        ('events => \'{"INSERT": "log_viewed"}\'', "event log_viewed belongs to the log itself"),
        ("events => '[]'", "events and column_events are JSON objects"),
        ('column_events => \'{"a_b": ["nope"]}\'', "column_events: table public.document has no column nope"),
        ('column_events => \'{"a_b": "title"}\'', "column_events: the columns of a_b are a list of names"),
        ("max_value_bytes => 1", "max_value_bytes: 1 is not between 64 and 16777216"),
        ("resource_type => 'audit_log'", "resource_type: audit_log is the log itself"),
        ("missing_actor => 'ignore'", "missing_actor: 'ignore' is neither system nor refuse"),
        ("workspace => 'a', workspace_column => 'title'", "give exactly one"),
        ("workspace => ''", "an empty name or no custom setting"),
        ("workspace_setting => 'no_dot'", "an empty name or no custom setting"),
    ],
)
def test_what_cannot_be_tracked_so_is_refused_by_name(document: Connection, arguments: str, message: str) -> None:
    with pytest.raises(psycopg.Error) as refusal:
        enabled(document, arguments)
    assert message in (refusal.value.diag.message_primary or "")
    assert count(document, "select count(*) from audit.tracked_table") == 0


def test_a_table_without_a_workspace_is_refused_with_a_hint(db: Connection) -> None:
    db.execute("create table thing (id integer primary key)")
    with pytest.raises(psycopg.errors.UndefinedColumn, match="has no column workspace_id") as refusal:
        db.execute("select audit.enable_tracking('thing')")
    assert "workspace_column" in (refusal.value.diag.message_hint or "")


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ("create view thing as select 1 as id", "is no ordinary or partitioned table"),
        ("create temporary table thing (id integer)", "is no ordinary or partitioned table"),
        (
            "create table p (id integer) partition by list (id); create table thing partition of p default",
            "is a partition",
        ),
    ],
)
def test_what_is_no_table_is_refused(db: Connection, definition: str, message: str) -> None:
    db.execute(definition.encode())
    with pytest.raises(psycopg.errors.WrongObjectType, match=message):
        db.execute("select audit.enable_tracking('thing', workspace => 'acme')")


def test_a_table_with_a_foreign_partition_is_refused(db: Connection) -> None:
    db.execute("create foreign data wrapper nowhere; create server there foreign data wrapper nowhere")
    db.execute("create table p (id integer, workspace_id text) partition by list (id)")
    db.execute("create foreign table far partition of p default server there")
    with pytest.raises(psycopg.errors.WrongObjectType, match=r"partition public\.far is a foreign table"):
        db.execute("select audit.enable_tracking('p', resource_id_columns => '{id}')")


@pytest.mark.parametrize("clause", ["on delete cascade", "deferrable initially deferred"])
def test_a_workspace_that_a_lookup_can_miss_is_warned_of(document: Connection, clause: str) -> None:
    document.execute("create table folder (id integer primary key, workspace_id text)")
    document.execute("grant select on folder to audit_capture")
    document.execute(f"alter table document add foreign key (folder_id) references folder {clause}".encode())
    warnings: list[str | None] = []
    document.add_notice_handler(lambda notice: warnings.append(notice.message_primary))
    enabled(document, "workspace_column => 'folder_id.workspace_id'")
    assert len(warnings) == 1


def test_the_log_does_not_track_itself(db: Connection) -> None:
    with pytest.raises(psycopg.errors.WrongObjectType, match="cannot be tracked"):
        db.execute("select audit.enable_tracking('audit.upkeep', workspace => 'acme')")


def test_a_lookup_over_a_table_that_capture_may_not_read_is_refused(document: Connection) -> None:
    document.execute("create table folder (id integer primary key, name text)")
    document.execute("alter table document add foreign key (folder_id) references folder")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="audit_capture may not read") as refusal:
        enabled(document, "resource_name_column => 'folder_id.name'")
    assert refusal.value.diag.message_hint == "grant select (id, name) on public.folder to audit_capture"
    document.execute((refusal.value.diag.message_hint or "").encode())
    enabled(document, "resource_name_column => 'folder_id.name'")


def test_a_lookup_over_a_table_with_row_level_security_is_refused(document: Connection) -> None:
    document.execute("create table folder (id integer primary key, name text)")
    document.execute("alter table folder enable row level security")
    document.execute("grant select on folder to audit_capture")
    document.execute("alter table document add foreign key (folder_id) references folder")
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="has row-level security"):
        enabled(document, "resource_name_column => 'folder_id.name'")


def test_a_lookup_that_becomes_unreadable_fails_no_write(document: Connection) -> None:
    document.execute("create table folder (id integer primary key, name text)")
    document.execute("grant select on folder to audit_capture")
    document.execute("alter table document add foreign key (folder_id) references folder")
    enabled(document, "resource_name_column => 'folder_id.name'")
    document.execute("insert into folder values (1, 'Reports')")
    document.execute("insert into document values (1, 'acme', 'T', 1)")
    document.execute("revoke select on folder from audit_capture")
    document.execute("insert into document values (2, 'acme', 'T', 1)")
    document.execute("insert into document values (3, 'acme', 'T', 1), (4, 'acme', 'T', 1)")
    assert trail(document, "resource_name, row_count") == [("Reports", 1), (None, 1), (None, 2)]


def test_a_lookup_by_columns_granted_one_by_one_is_compiled(document: Connection) -> None:
    document.execute("create table folder (id integer primary key, name text)")
    document.execute("grant select (id, name) on folder to audit_capture")
    document.execute("alter table document add foreign key (folder_id) references folder")
    enabled(document, "resource_name_column => 'folder_id.name'")
    document.execute("insert into folder values (1, 'Reports')")
    document.execute("set track_functions = 'all'")
    document.execute("begin; insert into document values (1, 'acme', 'T', 1)")
    # A function that finds itself stale asks for its fragments afresh.
    calls = "select count(*) from pg_stat_xact_user_functions where funcname = 'capture_pieces'"
    assert count(document, calls) == 0
    assert trail(document, "resource_name") == [("Reports",)]


def test_the_owner_of_a_table_tracks_it_without_being_superuser(database: Database) -> None:
    owner = database.connect("app_owner")
    owner.execute("create table thing (id integer primary key, workspace_id text)")
    owner.execute("select audit.enable_tracking('thing')")
    owner.execute("insert into thing values (1, 'acme')")
    owner.execute("truncate thing")
    assert trail(database.connect(), "operation, row_count, database_user") == [
        ("INSERT", 1, "app_owner"),
        ("TRUNCATE", 1, "app_owner"),
    ]
    owner.execute("select audit.disable_tracking('thing')")


def test_nobody_tracks_anothers_table(database: Database, document: Connection) -> None:
    owner = database.connect("app_owner")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="must be owner of table"):
        owner.execute("select audit.enable_tracking('document')")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="must be owner of table"):
        owner.execute("select audit.store_tracking('document'::regclass, '{}')")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="must be owner of table"):
        owner.execute("select audit.remove_tracking('document'::regclass)")


def test_a_writer_needs_no_rights_on_the_log(database: Database, document: Connection) -> None:
    document.execute("select audit.enable_tracking('document')")
    document.execute("grant select, insert, update, delete, truncate on document to app_user")
    user = database.connect("app_user")
    user.execute("insert into document values (1, 'acme', 'T', null), (2, 'acme', 'T', null)")
    user.execute("update document set title = 'x' where id = 1")
    user.execute("delete from document where id = 2")
    user.execute("truncate document")
    assert trail(document, "operation, row_count") == [("INSERT", 2), ("UPDATE", 1), ("DELETE", 1), ("TRUNCATE", 1)]


def test_row_level_security_on_a_tracked_table_hides_nothing_from_the_log(
    database: Database, document: Connection
) -> None:
    document.execute("alter table document enable row level security")
    document.execute("create policy mine on document using (title = 'mine')")
    document.execute("grant select, insert, update, delete, truncate on document to app_user")
    document.execute("select audit.enable_tracking('document')")
    document.execute("insert into document values (1, 'acme', 'theirs', null), (2, 'acme', 'mine', null)")
    user = database.connect("app_user")
    user.execute("update document set folder_id = 5")
    user.execute("truncate document")
    assert trail(document, "operation, row_count, resource_id") == [
        ("INSERT", 2, None),
        ("UPDATE", 1, "2"),
        ("TRUNCATE", 2, None),
    ]


def test_a_trigger_of_the_applications_own_is_not_replaced(document: Connection) -> None:
    document.execute("create function mine() returns trigger language plpgsql as $$ begin return null; end $$")
    document.execute("create trigger audit_update after update on document for each row execute function mine()")
    with pytest.raises(psycopg.errors.DuplicateObject, match="has a trigger audit_update of its own"):
        document.execute("select audit.enable_tracking('document')")


def test_a_lookup_shows_nothing_that_the_tables_owner_may_not_read(database: Database, db: Connection) -> None:
    db.execute("create table payroll (id integer primary key, salary text)")
    db.execute("grant select on payroll to audit_capture; grant references on payroll to app_owner")
    owner = database.connect("app_owner")
    owner.execute("create table spy (id integer primary key, pid integer references payroll)")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match=r"owner app_owner may not read public\.payroll"):
        owner.execute("select audit.enable_tracking('spy', workspace => 'a', resource_name_column => 'pid.salary')")


@pytest.mark.parametrize("argument", ["excluded_columns", "redacted_columns"])
@pytest.mark.parametrize("column", ["id", "workspace_id"])
def test_a_secret_column_cannot_be_shown_elsewhere_in_the_entry(
    document: Connection, argument: str, column: str
) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=f" {column} is shown elsewhere in the entry"):
        enabled(document, f"{argument} => '{{{column}}}'")


def test_two_sessions_enable_two_tables_at_once(database: Database) -> None:
    first, second = database.connect("app_owner", autocommit=False), database.connect("app_owner")
    first.execute("create table a (id integer primary key, workspace_id text)")
    first.execute("select audit.enable_tracking('a')")
    second.execute("create table b (id integer primary key, workspace_id text)")
    second.execute("set lock_timeout = '200ms'")
    with pytest.raises(psycopg.errors.LockNotAvailable):
        second.execute("select audit.enable_tracking('b')")
    first.commit()
    second.execute("select audit.enable_tracking('b')")
    assert count(database.connect(), "select count(*) from audit.tracked_table") == 2
