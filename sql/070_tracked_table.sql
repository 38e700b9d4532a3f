-- Which tables are tracked, and how: one row each, written by enable_tracking and disable_tracking only.

set search_path = pg_catalog, pg_temp;

create table audit.tracked_table (
    id bigint generated always as identity,
    table_schema text collate "C" not null,
    table_name text collate "C" not null,
    kind text collate "C" not null,
    resource_type text collate "C",
    resource_type_column text,
    resource_id_columns text[],
    resource_name_column text,
    subject_column text,
    workspace text collate "C",
    workspace_column text,
    workspace_setting text,
    events jsonb,
    column_events jsonb,
    soft_delete_column text,
    excluded_columns text[] not null default '{}',
    redacted_columns text[] not null default '{}',
    max_value_bytes integer not null,
    missing_actor text collate "C" not null,
    signed_actor boolean not null default false,
    enabled_at timestamptz not null default clock_timestamp(),
    relation_oid oid not null,
    column_numbers jsonb not null default '{}',
    column_types jsonb not null default '{}',
    compiled_digest text,
    readable_paths text[] not null default '{}',
    constraint tracked_table_has_a_number primary key (id),
    constraint table_is_tracked_once unique (table_schema, table_name),
    constraint kind_is_known check (kind in ('resource', 'permission', 'role')),
    constraint permission_and_role_name_their_resource check (kind = 'resource' or resource_id_columns is not null),
    constraint workspace_comes_from_one_place check (num_nonnulls(workspace, workspace_column, workspace_setting) <= 1),
    constraint max_value_bytes_is_bounded check (max_value_bytes between 64 and 16777216),
    constraint resource_type_is_not_the_log check (resource_type <> 'audit_log' and length(resource_type) <= 200),
    constraint workspace_is_given check (workspace <> '' and octet_length(workspace) <= 2000),
    constraint workspace_setting_is_custom check (workspace_setting like '%.%'),
    constraint missing_actor_is_known check (missing_actor in ('system', 'refuse'))
);

comment on table audit.tracked_table is
    'The tracked tables and their settings, as audit.enable_tracking was told. Change them by calling it again.';
comment on column audit.tracked_table.id is 'Number of the compiled capture function audit.capture_<id>. Never null.';
comment on column audit.tracked_table.table_schema is 'Schema of the table; follows a rename. Never null.';
comment on column audit.tracked_table.table_name is 'Name of the table; follows a rename. Never null.';
comment on column audit.tracked_table.kind is 'resource, permission or role. Never null.';
comment on column audit.tracked_table.resource_type is 'resource_type of the entries. Null: the table''s name.';
comment on column audit.tracked_table.resource_type_column is 'Column that names each row''s resource_type. Null: none.';
comment on column audit.tracked_table.resource_id_columns is 'Columns that make resource_id. Null: the primary key.';
comment on column audit.tracked_table.resource_name_column is 'Column, or fk_column.column, that gives resource_name. Null: none.';
comment on column audit.tracked_table.subject_column is 'Column, or fk_column.column, that names the other party of a permission or role. Null: none.';
comment on column audit.tracked_table.workspace is 'The workspace of every entry, when it is a constant. Null: it is not.';
comment on column audit.tracked_table.workspace_column is 'Column, or fk_column.column, that holds the workspace. Null: another source, or the column was dropped.';
comment on column audit.tracked_table.workspace_setting is 'Custom setting that holds the workspace. Null: another source.';
comment on column audit.tracked_table.events is 'Event names that replace the kind''s, by operation. Null: the kind''s.';
comment on column audit.tracked_table.column_events is 'Event names by the columns they belong to; where several fit, the first by name. Null: none.';
comment on column audit.tracked_table.soft_delete_column is 'Column whose change from null means deleted, and back restored. Null: none.';
comment on column audit.tracked_table.excluded_columns is 'Columns that are not stored at all. Never null.';
comment on column audit.tracked_table.redacted_columns is 'Columns stored as a marker that still shows that they changed. Never null.';
comment on column audit.tracked_table.max_value_bytes is 'A longer value is stored as its size and SHA-256. Never null.';
comment on column audit.tracked_table.missing_actor is 'system: a write without an actor is marked system; refuse: it fails. Never null.';
comment on column audit.tracked_table.signed_actor is 'Whether a write wants a signed actor, as audit.require_signed_actor was told. Never null.';
comment on column audit.tracked_table.enabled_at is 'When tracking was turned on first. Never null.';
comment on column audit.tracked_table.relation_oid is 'OID of the table when it was last compiled; another one after a restore. Never null.';
comment on column audit.tracked_table.column_numbers is 'Column names and their numbers when last compiled: shows a rename. Never null.';
comment on column audit.tracked_table.column_types is 'Column numbers and the OIDs and modifiers of their types when last compiled: shows what was retyped. Never null.';
comment on column audit.tracked_table.readable_paths is 'The lookups (fk_column.column) that could be read when last compiled. Never null.';
comment on column audit.tracked_table.compiled_digest is 'MD5 of the compiled function''s text. Null: not compiled.';

-- A note that only grows: to mark the settings' own row would wait for whoever compiles them, with the table locked.
create table audit.rewritten_table (
    tracked_table_id bigint not null,
    by_command text not null,
    is_by_type boolean not null
);
comment on table audit.rewritten_table is
    'Tracked tables whose rows a DDL command rewrites, one row a rewrite, from its beginning until table_altered is recorded: at the end of the command, else by upkeep. Mostly empty.';
comment on column audit.rewritten_table.tracked_table_id is 'Number of the tracked table. Never null.';
comment on column audit.rewritten_table.is_by_type is 'Whether values were made anew by ALTER COLUMN … TYPE; else only columns that came with the command, or generated ones, have other values. Never null.';
comment on column audit.rewritten_table.by_command is 'The command''s tag, such as ALTER TABLE. Never null.';

create function audit.own_events()
    returns text[]
    language sql
    immutable
    parallel safe
return array[
    'tracking_enabled', 'tracking_changed', 'tracking_disabled', 'table_altered', 'table_dropped', 'day_dropped',
    'day_held', 'day_released', 'key_created', 'key_revoked', 'log_viewed', 'log_exported', 'log_write_denied', 'seal_failed'];
comment on function audit.own_events() is 'The events that only the log itself writes.';

create function audit.kind_events(kind text)
    returns jsonb
    language sql
    immutable
    parallel safe
return case kind
    when 'resource' then jsonb '{"INSERT": "resource_created", "UPDATE": "resource_updated", "DELETE": "resource_deleted", "TRUNCATE": "resource_deleted", "RESTORE": "resource_restored"}'
    when 'permission' then jsonb '{"INSERT": "permission_granted", "UPDATE": "permission_changed", "DELETE": "permission_revoked", "TRUNCATE": "permission_revoked", "RESTORE": "permission_granted"}'
    when 'role' then jsonb '{"INSERT": "role_assigned", "UPDATE": "role_changed", "DELETE": "role_unassigned", "TRUNCATE": "role_unassigned", "RESTORE": "role_assigned"}'
end;
comment on function audit.kind_events(text) is
    'The events of a kind by operation; RESTORE is a soft deletion taken back. Null for an unknown kind.';

create function audit.is_event_name(event text)
    returns boolean
    language sql
    immutable
    parallel safe
return event ~ '^[a-z][a-z0-9]*(_[a-z0-9]+)+$' and length(event) <= 63;
comment on function audit.is_event_name(text) is
    'Whether a text has the form of an event, noun_pastparticiple in lower case, at most 63 characters. Null for null.';
