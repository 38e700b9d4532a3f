"""Application holds every statement that the sample application sends: ordinary writes that know nothing of a log.

It must not choose values: those come from the story.
"""

ROLE_MADE = "insert into role (id, name) values (%s, %s)"
WORKSPACE_MADE = "insert into workspace (id, name) values (%s, %s)"

MEMBERS_IMPORTED = """
insert into member (workspace_id, id, name, email, title, calendar_token)
select %s, * from unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[])
"""
MEMBER_TITLE_CHANGED = "update member set title = %s where id = %s"
MEMBER_TOKEN_CHANGED = "update member set calendar_token = %s where id = %s"

ROLE_GIVEN = "insert into member_role (workspace_id, member_id, role_id) values (%s, %s, %s)"
ROLE_CHANGED = "update member_role set role_id = %s where member_id = %s"
ROLE_TAKEN = "delete from member_role where member_id = %s"

DOCUMENTS_IMPORTED = """
insert into document (workspace_id, updated_at, id, title, owner_id)
select %s, %s, * from unnest(%s::uuid[], %s::text[], %s::text[])
"""
DOCUMENT_CREATED = "insert into document (workspace_id, id, title, owner_id, updated_at) values (%s, %s, %s, %s, %s)"
DOCUMENT_DESCRIBED = "update document set description = %s, updated_at = %s where id = %s"
DOCUMENT_MOVED_ON = "update document set status = %s, updated_at = %s where id = %s"
DOCUMENT_RENAMED = "update document set title = %s, updated_at = %s where id = %s"
DOCUMENT_TAGGED = "update document set tags = %s, updated_at = %s where id = %s"
DOCUMENT_ARCHIVED = "update document set archived_at = %s, updated_at = %s where id = %s"
DOCUMENT_DELETED = "delete from document where id = %s"
DOCUMENTS_REVIEWED = """
update document set tags = array_append(tags, %s), updated_at = %s
where workspace_id = %s and archived_at is null
"""
DOCUMENTS_OF_OWNER_TAGGED = """
update document set tags = array_append(tags, %s), updated_at = %s
where owner_id = %s and archived_at is null
"""
DOCUMENTS_HANDED_OVER = "update document set owner_id = %s, updated_at = %s where owner_id = %s and status = %s"

DOCUMENT_SHARED = """
insert into document_permission (workspace_id, document_id, member_id, level, expires_at) values (%s, %s, %s, %s, %s)
on conflict do nothing
"""
DOCUMENT_SHARE_CHANGED = "update document_permission set level = %s where document_id = %s and member_id = %s"
DOCUMENT_SHARE_ENDED = "delete from document_permission where document_id = %s and member_id = %s"
DOCUMENT_SHARES_ENDED = "delete from document_permission where document_id = %s"
DOCUMENT_SHARES_EXPIRED = "delete from document_permission where workspace_id = %s and expires_at < %s"

DASHBOARD_CREATED = "insert into dashboard (workspace_id, name, owner_id, updated_at) values (%s, %s, %s, %s)"
DASHBOARD_DESCRIBED = "update dashboard set description = %s, updated_at = %s where workspace_id = %s and name = %s"
DASHBOARD_RENAMED = "update dashboard set name = %s, updated_at = %s where workspace_id = %s and name = %s"
DASHBOARD_CHANGED = "update dashboard set refresh_minutes = %s, updated_at = %s where workspace_id = %s and name = %s"
DASHBOARD_SHARED = """
insert into dashboard_permission (workspace_id, dashboard_id, member_id, level, expires_at)
select d.workspace_id, d.id, m.id, %s, %s
from dashboard d, unnest(%s::text[]) m(id)
where d.workspace_id = %s and d.name = %s
on conflict do nothing
"""
DASHBOARD_SHARES_EXPIRED = "delete from dashboard_permission where workspace_id = %s and expires_at < %s"
DASHBOARD_EXPORTED = """
select audit.record(
    'report_exported', 'dashboard', id::text, name, workspace_id, jsonb_build_object('format', %s::text))
from dashboard
where workspace_id = %s and name = %s
"""

DATASETS_IMPORTED = """
insert into dataset (workspace_id, updated_at, id, owner_id, monthly_cost)
select %s, %s, * from unnest(%s::text[], %s::text[], %s::numeric[])
"""
DATASET_DESCRIBED = "update dataset set description = %s, updated_at = %s where id = %s"
DATASET_CERTIFIED = "update dataset set is_certified = not is_certified, updated_at = %s where id = %s"
DATASETS_CRAWLED = """
update dataset set freshness = case when id = any(%s) then 'stale' else 'fresh' end, updated_at = %s
where workspace_id = %s
"""
COLUMNS_IMPORTED = """
insert into dataset_column (workspace_id, dataset_id, name, data_type)
select %s, * from unnest(%s::text[], %s::text[], %s::text[])
"""
COLUMN_DESCRIBED = "update dataset_column set description = %s where dataset_id = %s and name = %s"
COLUMNS_GIVEN_RETENTION = """
update dataset_column
set description = ltrim(concat(rtrim(split_part(coalesce(description, ''), 'Kept for', 1)), ' ', %s::text))
where workspace_id = %s
"""
