"""DDL on a tracked table: writes go on, no column is silently skipped, and the log says that the table was altered."""

import pytest

from tests.conftest import Database
from tests.trail import Connection, count, own_events, trail


@pytest.fixture
def document(db: Connection) -> Connection:
    db.execute("create table document (id integer primary key, workspace_id text, title text, secret text)")
    db.execute(
        "select audit.enable_tracking('document', excluded_columns => '{secret}', resource_name_column => 'title')"
    )
    return db


def test_an_added_column_is_captured_from_the_next_write_on(document: Connection) -> None:
    document.execute("alter table document add stars integer")
    document.execute("insert into document (id, workspace_id, stars) values (1, 'acme', 5)")
    assert trail(document, "after->'stars'") == [(5,)]


def test_a_dropped_column_is_captured_no_more(document: Connection) -> None:
    document.execute("alter table document drop column title")
    document.execute("insert into document values (1, 'acme', 'secret')")
    assert trail(document) == [("resource_created", "1", None, {"id": 1, "workspace_id": "acme"})]


def test_a_renamed_column_keeps_its_settings(document: Connection) -> None:
    document.execute("alter table document rename column secret to hidden")
    document.execute("alter table document rename column title to name")
    document.execute("alter table document rename column workspace_id to tenant")
    document.execute("insert into document values (1, 'acme', 'T', 'secret')")
    assert trail(document, "workspace_id, resource_name, after") == [
        ("acme", "T", {"id": 1, "tenant": "acme", "name": "T"})
    ]


def test_a_retyped_column_is_compared_by_its_new_type(document: Connection) -> None:
    document.execute("alter table document add stars integer default 1")
    document.execute("insert into document values (1, 'acme', 'T', '', 1)")
    document.execute("alter table document alter stars type numeric")
    document.execute("update document set stars = 1.00")
    assert trail(document, "before->>'stars', after->>'stars'")[1:] == [("1", "1.00")]


def test_a_renamed_table_goes_on_under_its_new_name(document: Connection) -> None:
    document.execute("create schema catalog")
    document.execute("alter table document rename to report")
    document.execute("alter table report set schema catalog")
    document.execute("insert into catalog.report values (1, 'acme', 'T')")
    document.execute("alter schema catalog rename to library")
    document.execute("insert into library.report values (2, 'acme', 'T'), (3, 'acme', 'T')")
    assert trail(document, "table_schema, table_name, resource_type, row_count") == [
        ("catalog", "report", "report", 1),
        ("library", "report", "report", 2),
    ]
    assert document.execute("select table_schema, table_name from audit.tracked_table").fetchall() == [
        ("library", "report")
    ]


def test_an_alteration_is_recorded(document: Connection) -> None:
    document.execute("alter table document add stars integer, drop column title")
    document.execute("alter table document rename column stars to rating")
    document.execute("alter table document alter rating set statistics 100")
    assert own_events(document, "event, resource_id, context->'details'")[1:] == [
        (
            "table_altered",
            "public.document",
            {"command": "ALTER TABLE", "added_columns": ["stars"], "dropped_columns": ["title"], "renamed_columns": {}},
        ),
        (
            "table_altered",
            "public.document",
            {
                "command": "ALTER TABLE",
                "added_columns": [],
                "dropped_columns": [],
                "renamed_columns": {"stars": "rating"},
            },
        ),
    ]


def test_a_dropped_table_ends_its_tracking(document: Connection) -> None:
    document.execute("drop table document")
    assert own_events(document)[1:] == [("table_dropped", "public.document")]
    assert count(document, "select count(*) from audit.tracked_table") == 0
    document.execute("create table document (id integer primary key)")
    document.execute("insert into document values (1)")
    assert trail(document) == []


def test_ddl_and_writes_in_one_transaction(document: Connection) -> None:
    document.execute("begin")
    document.execute("insert into document values (1, 'acme', 'a')")
    document.execute("alter table document add stars integer")
    document.execute("update document set stars = 1")
    document.execute("alter table document drop column stars")
    document.execute("update document set title = 'b'")
    document.execute("commit")
    assert trail(document, "operation, after - 'secret'")[1:] == [("UPDATE", {"stars": 1}), ("UPDATE", {"title": "b"})]


def test_a_migration_by_an_owner_without_superuser_is_followed(database: Database) -> None:
    owner = database.connect("app_owner")
    owner.execute("create table thing (id integer primary key, workspace_id text)")
    owner.execute("select audit.enable_tracking('thing')")
    owner.execute("alter table thing add note text")
    owner.execute("insert into thing values (1, 'acme', 'n')")
    assert trail(database.connect(), "after->>'note'") == [("n",)]


@pytest.mark.parametrize(
    "ddl",
    [
        "alter table document add stars integer default 5",
        "alter table document drop column title",
        "alter table document rename column title to name",
        "alter table document rename column workspace_id to tenant",
        "alter table document rename to report; create view document as select * from report",
        "alter table document alter title type jsonb using to_jsonb(title)",
        "alter table document drop constraint document_pkey",
    ],
)
def test_a_write_after_ddl_that_nobody_followed_works_and_is_captured(document: Connection, ddl: str) -> None:
    document.execute("select audit.enable_tracking('document', workspace => 'acme')")
    document.execute("insert into document (id) values (1)")
    document.execute("alter event trigger audit_follow_ddl disable")
    document.execute(ddl.encode())
    document.execute("insert into document (id) values (2)")
    document.execute("update document set id = id + 10")
    document.execute("delete from document where id = 11")
    assert trail(document, "operation, row_count")[1:] == [("INSERT", 1), ("UPDATE", 2), ("DELETE", 1)]


def test_no_column_is_skipped_after_ddl_that_nobody_followed(document: Connection) -> None:
    document.execute("alter event trigger audit_follow_ddl disable")
    document.execute("alter table document add stars integer")
    document.execute("insert into document (id, workspace_id, stars) values (1, 'acme', 5)")
    assert trail(document, "after->'stars'") == [(5,)]
    document.execute("select audit.maintain()")
    assert document.execute("select problem from audit.check() where problem = 'function_stale'").fetchall() == []


@pytest.fixture
def measurement(db: Connection) -> Connection:
    db.execute("create table measurement (id integer, workspace_id text, value integer) partition by range (id)")
    db.execute("create table low partition of measurement for values from (0) to (100)")
    db.execute("select audit.enable_tracking('measurement', resource_id_columns => '{id}')")
    db.execute("create table high partition of measurement for values from (100) to (200)")
    return db


def test_a_partitioned_table_is_captured_once_however_it_is_named(measurement: Connection) -> None:
    measurement.execute("insert into measurement values (1, 'acme', 1), (101, 'acme', 1)")
    measurement.execute("update low set value = 2")
    measurement.execute("delete from high")
    assert trail(measurement, "operation, table_name, row_count, resource_id") == [
        ("INSERT", "measurement", 2, None),
        ("UPDATE", "measurement", 1, "1"),
        ("DELETE", "measurement", 1, "101"),
    ]


def test_a_row_that_moves_between_partitions_is_one_update(measurement: Connection) -> None:
    measurement.execute("insert into measurement values (1, 'acme', 1)")
    measurement.execute("update measurement set id = 101")
    assert trail(measurement, "operation, resource_id, before->'id', after->'id'")[1:] == [("UPDATE", "101", 1, 101)]


def test_a_truncate_of_a_partitioned_table_is_an_entry_for_each_partition(measurement: Connection) -> None:
    measurement.execute("insert into measurement values (1, 'acme', 1), (101, 'acme', 1), (102, 'acme', 1)")
    measurement.execute(
        "begin; truncate measurement; insert into low values (2, 'acme', 1); truncate low, high; commit"
    )
    assert sorted(trail(measurement, "operation, table_name, row_count")) == [
        ("INSERT", "measurement", 1),
        ("INSERT", "measurement", 3),
        ("TRUNCATE", "measurement", 1),
        ("TRUNCATE", "measurement", 1),
        ("TRUNCATE", "measurement", 2),
    ]


def test_a_truncate_is_counted_in_every_schema(db: Connection) -> None:
    db.execute(
        "create schema archive; create table m (id integer primary key, workspace_id text) partition by range (id)"
    )
    db.execute("create table archive.m partition of m for values from (0) to (10)")
    db.execute("select audit.enable_tracking('m')")
    db.execute("insert into m values (1, 'acme'), (2, 'acme')")
    db.execute("truncate m")
    assert trail(db, "operation, table_schema, row_count")[1:] == [("TRUNCATE", "public", 2)]


def test_a_row_whose_move_is_suppressed_is_deleted(measurement: Connection) -> None:
    measurement.execute("insert into measurement values (1, 'acme', 1), (2, 'acme', 2)")
    measurement.execute(
        "create function suppress() returns trigger language plpgsql as"
        " $$ begin return case when new.id = 101 then null else new end; end $$"
    )
    measurement.execute("create trigger s before insert on high for each row execute function suppress()")
    measurement.execute("update measurement set id = id + 100")
    assert measurement.execute("select id from measurement").fetchall() == [(102,)]
    assert trail(measurement, "operation, row_count, resource_id")[1:] == [("DELETE", 2, None), ("INSERT", 1, "102")]


def test_a_partition_made_with_its_schema_is_tracked(measurement: Connection) -> None:
    measurement.execute(
        "create schema archive create table old partition of public.measurement for values from (200) to (300)"
    )
    measurement.execute("insert into archive.old values (200, 'acme', 1)")
    assert trail(measurement, "table_name, resource_id") == [("measurement", "200")]


def test_a_new_owner_can_attach_partitions(database: Database, measurement: Connection) -> None:
    measurement.execute("alter table measurement owner to app_user; alter table low owner to app_user")
    measurement.execute("grant create on schema public to app_user")
    user = database.connect("app_user")
    user.execute("create table other partition of measurement for values from (200) to (300)")
    user.execute("insert into other values (200, 'acme', 1)")
    assert trail(measurement, "resource_id, database_user") == [("200", "app_user")]


def test_an_attached_table_is_tracked_and_a_detached_one_is_not(measurement: Connection) -> None:
    measurement.execute("create table other (id integer, workspace_id text, value integer)")
    measurement.execute("alter table measurement attach partition other for values from (200) to (300)")
    measurement.execute("insert into other values (200, 'acme', 1)")
    measurement.execute("alter table measurement detach partition other")
    measurement.execute("insert into other values (201, 'acme', 1)")
    assert trail(measurement, "table_name, resource_id") == [("measurement", "200")]


@pytest.mark.parametrize(
    "rename",
    [
        "alter event trigger audit_follow_ddl disable; alter table document rename column secret to token",
        "alter table document rename column secret to token",
        # As after a restore: the table has another OID than the settings say.
        "update audit.tracked_table set relation_oid = 1; alter table document rename column secret to token",
        (
            "update audit.tracked_table set relation_oid = 1; alter event trigger audit_follow_ddl disable;"
            " alter table document rename column secret to token"
        ),
    ],
)
def test_an_excluded_column_stays_secret_under_a_new_name(document: Connection, rename: str) -> None:
    document.execute("select audit.enable_tracking('document', excluded_columns => '{secret}')")
    document.execute(rename.encode())
    document.execute("insert into document values (1, 'acme', 'T', 'hush')")
    document.execute("select audit.maintain()")
    document.execute("update document set token = 'hushed', title = 'U'")
    assert trail(document, "coalesce(before::text, '') || after::text like '%hush%'") == [(False,), (False,)]


@pytest.mark.parametrize("follows", [True, False])
@pytest.mark.parametrize(
    "rename",
    [
        "alter table document rename column secret to token",
        # The secret under a name that is known, and another column under the secret's.
        (
            "alter table document rename column secret to t; alter table document rename column title to secret;"
            " alter table document rename column t to token; alter table document add column title text"
        ),
    ],
)
def test_an_excluded_column_stays_secret_for_a_snapshot_older_than_its_new_name(
    database: Database, document: Connection, rename: str, follows: bool
) -> None:
    document.execute("create table unrelated (id integer)")
    if not follows:
        document.execute("alter event trigger audit_follow_ddl disable")
    old = database.connect(autocommit=False)
    old.execute("set transaction isolation level repeatable read; select from unrelated")
    document.execute(rename.encode())
    old.execute("insert into document (id, workspace_id, token) values (1, 'acme', 'hush'), (2, 'acme', 'hush')")
    old.execute("insert into document (id, workspace_id, token) values (3, 'acme', 'hush')")
    old.commit()
    assert trail(document, "row_count, coalesce(after::text, '') like '%hush%'") == [(2, False), (1, False)]
    assert count(document, "select count(*) from audit.change where after::text like '%hush%'") == 0


def test_an_excluded_column_of_an_inheriting_table_stays_secret_under_a_new_name(db: Connection) -> None:
    db.execute("create table base (id integer primary key, workspace_id text, secret text)")
    db.execute("create table kid (primary key (id)) inherits (base)")
    db.execute("select audit.enable_tracking('kid', excluded_columns => '{secret}')")
    db.execute("alter table base rename column secret to token")
    db.execute("insert into kid values (1, 'acme', 'hush')")
    assert trail(db, "after") == [({"id": 1, "workspace_id": "acme"},)]


def test_grants_and_revocations_on_a_parent_are_followed_without_warning(document: Connection) -> None:
    document.execute("create table folder (id integer primary key, name text)")
    document.execute("alter table document add folder_id integer references folder")
    document.execute("grant select on folder to audit_capture")
    document.execute("select audit.enable_tracking('document', resource_name_column => 'folder_id.name')")
    notices: list[str | None] = []
    document.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    document.execute("insert into folder values (1, 'Reports')")
    document.execute("revoke select on folder from audit_capture")
    document.execute("insert into document values (1, 'acme', 'T', '', 1)")
    document.execute("grant select on folder to audit_capture")
    document.execute("insert into document values (2, 'acme', 'T', '', 1)")
    assert trail(document, "resource_name") == [(None,), ("Reports",)]
    assert notices == []


def test_two_migrations_do_not_wait_for_each_other_through_the_log(database: Database, document: Connection) -> None:
    document.execute("create table folder (id integer primary key, name text)")
    document.execute("alter table document add folder_id integer references folder")
    document.execute("grant select on folder to audit_capture")
    document.execute("select audit.enable_tracking('document', resource_name_column => 'folder_id.name')")
    first, second = database.connect(autocommit=False), database.connect()
    first.execute("alter table document add a integer")
    second.execute("set lock_timeout = '2s'")
    warnings: list[str | None] = []
    second.add_notice_handler(lambda notice: warnings.append(notice.message_primary))
    second.execute("alter table folder add b integer")
    assert warnings == []
    first.commit()
    document.execute("insert into folder values (1, 'Reports')")
    document.execute("insert into document values (1, 'acme', 'T', '', 1)")
    assert trail(document, "resource_name") == [("Reports",)]


def test_a_table_that_carries_a_stale_number_can_be_dropped(document: Connection) -> None:
    # After a restore another table may have the number that the settings remember.
    document.execute("create table bystander (id integer)")
    document.execute("update audit.tracked_table set relation_oid = 'bystander'::regclass")
    document.execute("drop table bystander")
    document.execute("insert into document values (1, 'acme', 'T')")
    assert trail(document, "resource_id") == [("1",)]


def test_a_dropped_table_ends_its_tracking_after_a_restore_too(document: Connection) -> None:
    document.execute("update audit.tracked_table set relation_oid = 1")
    document.execute("drop table document")
    assert own_events(document)[1:] == [("table_dropped", "public.document")]
    assert count(document, "select count(*) from audit.tracked_table") == 0
