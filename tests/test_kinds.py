"""Kinds, events and columns: what an entry is called, whom it belongs to and what it does not tell."""

import psycopg
import pytest

from tests.trail import Connection, changes, trail

pytestmark = pytest.mark.usefixtures("way")


@pytest.fixture
def catalog(db: Connection) -> Connection:
    """Two documents and two members of workspace acme, and a table of grants between them."""
    db.execute("create table document (id integer primary key, workspace_id text, title text, description text)")
    db.execute("create table member (id text primary key, name text)")
    db.execute(
        "create table grants (id integer primary key, document_id integer references document on delete cascade,"
        " member_id text references member, level text)"
    )
    db.execute("insert into document values (1, 'acme', 'Revenue', null), (2, 'acme', 'Costs', null)")
    db.execute("insert into member values ('m1', 'Ada'), ('m2', 'Grace')")
    db.execute("grant select on document, member to audit_capture")
    return db


def track_grants(db: Connection) -> None:
    db.execute(
        "select audit.enable_tracking('grants', 'permission', resource_type => 'document',"
        " resource_id_columns => '{document_id}', resource_name_column => 'document_id.title',"
        " subject_column => 'member_id.name', workspace_column => 'document_id.workspace_id')"
    )


def test_a_permission_is_granted_changed_and_revoked_for_its_resource(catalog: Connection) -> None:
    track_grants(catalog)
    catalog.execute("insert into grants values (7, 1, 'm1', 'view')")
    catalog.execute("update grants set level = 'edit'")
    catalog.execute("delete from grants")
    columns = "event, workspace_id, resource_type, resource_id, resource_name, row_key, context"
    ada = {"subject": {"id": "m1", "name": "Ada"}}
    assert trail(catalog, columns) == [
        ("permission_granted", "acme", "document", "1", "Revenue", "7", ada),
        ("permission_changed", "acme", "document", "1", "Revenue", "7", ada),
        ("permission_revoked", "acme", "document", "1", "Revenue", "7", ada),
    ]


def test_permissions_granted_for_one_resource_in_bulk_name_it(catalog: Connection) -> None:
    track_grants(catalog)
    catalog.execute("insert into grants values (7, 1, 'm1', 'view'), (8, 1, 'm2', 'view')")
    assert trail(catalog, "event, resource_id, resource_name, row_count, context") == [
        ("permission_granted", "1", "Revenue", 2, None)
    ]
    assert changes(catalog, "resource_id, resource_name, row_key") == [("1", "Revenue", "7"), ("1", "Revenue", "8")]


def test_a_role_is_assigned_changed_and_unassigned_to_its_member(catalog: Connection) -> None:
    catalog.execute("create table role_of (id integer primary key, member_id text references member, role text)")
    catalog.execute(
        "select audit.enable_tracking('role_of', 'role', resource_type => 'member',"
        " resource_id_columns => '{member_id}',"
        " resource_name_column => 'member_id.name', subject_column => 'role', workspace => 'acme')"
    )
    catalog.execute("insert into role_of values (1, 'm1', 'editor')")
    catalog.execute("update role_of set role = 'owner'")
    catalog.execute("delete from role_of")
    assert trail(catalog, "event, resource_id, resource_name, row_key, context->'subject'->>'id'") == [
        ("role_assigned", "m1", "Ada", "1", "editor"),
        ("role_changed", "m1", "Ada", "1", "owner"),
        ("role_unassigned", "m1", "Ada", "1", "owner"),
    ]


def test_truncate_revokes_and_unassigns(catalog: Connection) -> None:
    track_grants(catalog)
    catalog.execute("insert into grants values (7, 1, 'm1', 'view')")
    catalog.execute("truncate grants")
    assert trail(catalog, "event, operation, workspace_id, row_count")[1:] == [
        ("permission_revoked", "TRUNCATE", "acme", 1)
    ]


def test_events_can_be_named_by_operation(catalog: Connection) -> None:
    catalog.execute("""select audit.enable_tracking('document', events => '{"INSERT": "document_published"}')""")
    catalog.execute("insert into document values (3, 'acme', 'x', null)")
    catalog.execute("delete from document where id = 3")
    assert trail(catalog, "event") == [("document_published",), ("resource_deleted",)]


def test_a_column_event_applies_when_every_changed_column_belongs_to_it(catalog: Connection) -> None:
    catalog.execute(
        "select audit.enable_tracking('document', column_events => '{\"documentation_updated\": [\"description\"]}')"
    )
    catalog.execute("update document set description = 'a' where id = 1")
    catalog.execute("update document set description = 'b', title = 'b' where id = 1")
    catalog.execute("update document set description = 'c', title = case id when 1 then 'c' else title end")
    assert trail(catalog, "event, row_count, resource_id") == [
        ("documentation_updated", 1, "1"),
        ("resource_updated", 1, "1"),
        ("documentation_updated", 1, "2"),
        ("resource_updated", 1, "1"),
    ]


def test_a_soft_deletion_is_a_deletion_and_can_be_taken_back(catalog: Connection) -> None:
    catalog.execute("alter table document add deleted_at date")
    catalog.execute("select audit.enable_tracking('document', soft_delete_column => 'deleted_at')")
    catalog.execute("update document set deleted_at = '2026-03-14' where id = 1")
    catalog.execute("update document set deleted_at = '2026-03-15'")
    catalog.execute("update document set deleted_at = null, title = 'Back' where id = 1")
    assert trail(catalog, "event, row_count, resource_id") == [
        ("resource_deleted", 1, "1"),
        ("resource_deleted", 1, "2"),
        ("resource_updated", 1, "1"),
        ("resource_restored", 1, "1"),
    ]


def test_an_excluded_column_is_stored_nowhere_and_makes_no_entry(catalog: Connection) -> None:
    catalog.execute("select audit.enable_tracking('document', excluded_columns => '{description}')")
    catalog.execute("update document set description = 'secret'")
    catalog.execute("update document set description = 'other', title = 'T' where id = 1")
    catalog.execute("delete from document where id = 2")
    assert trail(catalog, "before, after") == [
        ({"title": "Revenue"}, {"title": "T"}),
        ({"id": 2, "title": "Costs", "workspace_id": "acme"}, None),
    ]


def test_a_redacted_column_shows_that_it_changed_and_nothing_else(catalog: Connection) -> None:
    catalog.execute("select audit.enable_tracking('document', redacted_columns => '{description}')")
    catalog.execute("update document set description = 'secret' where id = 1")
    catalog.execute("update document set description = description where id = 1")
    marker = {"redacted": True}
    assert trail(catalog, "before, after") == [({"description": marker}, {"description": marker})]


def test_the_workspace_comes_from_a_column(catalog: Connection) -> None:
    catalog.execute("alter table document add team uuid default '00000000-0000-0000-0000-000000000001'")
    catalog.execute("select audit.enable_tracking('document', workspace_column => 'team')")
    catalog.execute("update document set title = 'x' where id = 1")
    assert trail(catalog, "workspace_id") == [("00000000-0000-0000-0000-000000000001",)]


def test_the_workspace_can_be_a_constant(catalog: Connection) -> None:
    catalog.execute("select audit.enable_tracking('document', workspace => $$it's one$$)")
    catalog.execute("update document set title = 'x' where id = 1")
    assert trail(catalog, "workspace_id") == [("it's one",)]


def test_the_workspace_can_come_from_a_setting(catalog: Connection) -> None:
    catalog.execute("select audit.enable_tracking('document', workspace_setting => 'app.workspace')")
    catalog.execute("update document set title = 'x' where id = 1")
    catalog.execute("set app.workspace = 'tenant'")
    catalog.execute("update document set title = 'y' where id = 1")
    assert trail(catalog, "workspace_id") == [(None,), ("tenant",)]


def test_the_workspace_can_be_looked_up_over_a_foreign_key(catalog: Connection) -> None:
    track_grants(catalog)
    catalog.execute("insert into grants values (7, 1, 'm1', 'view'), (8, 2, 'm2', 'view')")
    assert trail(catalog, "workspace_id, row_count") == [("acme", 2)]


def test_a_resource_type_can_come_from_a_column(db: Connection) -> None:
    db.execute("create table asset (id integer primary key, workspace_id text, type text)")
    db.execute("select audit.enable_tracking('asset', resource_type_column => 'type')")
    db.execute("insert into asset values (1, 'acme', 'dashboard')")
    db.execute("insert into asset values (2, 'acme', 'dataset'), (3, 'acme', 'dashboard')")
    db.execute("insert into asset values (4, 'acme', 'dataset'), (5, 'acme', 'dataset'), (6, 'acme', 'dataset')")
    assert trail(db, "resource_type, row_count") == [("dashboard", 1), ("asset", 2), ("dataset", 3)]


def test_a_write_without_an_actor_is_marked_system(catalog: Connection) -> None:
    catalog.execute("select audit.enable_tracking('document')")
    catalog.execute("update document set title = 'x' where id = 1")
    assert trail(catalog, "actor_type, actor_id, actor_name") == [("system", "system", "system")]


@pytest.mark.parametrize("where", ["id = 1", "true"])
def test_a_table_can_refuse_writes_without_an_actor(catalog: Connection, where: str) -> None:
    catalog.execute("select audit.enable_tracking('document', missing_actor => 'refuse')")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match=r"a write to public\.document needs an actor"):
        catalog.execute(f"update document set title = 'x' where {where}".encode())
    catalog.execute("update document set title = title")
    assert catalog.execute("select title from document order by id").fetchall() == [("Revenue",), ("Costs",)]


def test_a_child_deleted_by_cascade_keeps_its_own_workspace(catalog: Connection) -> None:
    catalog.execute("alter table grants add workspace_id text default 'acme'")
    catalog.execute("select audit.enable_tracking('document')")
    catalog.execute("select audit.enable_tracking('grants', 'permission', resource_id_columns => '{document_id}')")
    catalog.execute("insert into grants values (7, 1, 'm1', 'view'), (8, 1, 'm2', 'view')")
    catalog.execute("delete from document where id = 1")
    assert trail(catalog, "event, workspace_id, resource_id, row_count")[1:] == [
        ("resource_deleted", "acme", "1", 1),
        ("permission_revoked", "acme", "1", 2),
    ]
