-- The sample application: a data catalog. Its own tables, made by the role that owns them, and what of them is tracked.

create table workspace (
    id text primary key,
    name text not null
);

create table member (
    id text primary key,
    workspace_id text not null references workspace,
    name text not null,
    email text not null,
    title text,
    calendar_token text,
    last_seen_at timestamptz,
    constraint email_belongs_to_one_member unique (workspace_id, email)
);

create table role (
    id text primary key,
    name text not null
);

create table member_role (
    id bigint generated always as identity primary key,
    workspace_id text not null references workspace,
    member_id text not null references member,
    role_id text not null references role,
    constraint role_is_assigned_once unique (member_id, role_id)
);

create table document (
    id uuid primary key,
    workspace_id text not null references workspace,
    title text not null,
    description text,
    status text not null default 'draft',
    tags text[] not null default '{}',
    owner_id text not null references member,
    archived_at timestamptz,
    updated_at timestamptz not null
);

create table dashboard (
    id bigint generated always as identity primary key,
    workspace_id text not null references workspace,
    name text not null,
    description text,
    refresh_minutes integer not null default 60,
    owner_id text not null references member,
    updated_at timestamptz not null,
    constraint name_belongs_to_one_dashboard unique (workspace_id, name)
);

create table dataset (
    workspace_id text not null references workspace,
    id text primary key,
    description text,
    freshness text not null default 'fresh',
    is_certified boolean not null default false,
    monthly_cost numeric(10, 2),
    owner_id text not null references member,
    updated_at timestamptz not null
);

create table dataset_column (
    workspace_id text not null references workspace,
    dataset_id text not null references dataset on delete cascade,
    name text not null,
    data_type text not null,
    description text,
    is_personal boolean not null default false,
    primary key (dataset_id, name)
);

create table document_permission (
    id bigint generated always as identity primary key,
    workspace_id text not null references workspace,
    document_id uuid not null references document on delete cascade,
    member_id text not null references member,
    level text not null,
    expires_at timestamptz,
    constraint document_permission_is_given_once unique (document_id, member_id)
);

create table dashboard_permission (
    id bigint generated always as identity primary key,
    workspace_id text not null references workspace,
    dashboard_id bigint not null references dashboard on delete cascade,
    member_id text not null references member,
    level text not null,
    expires_at timestamptz,
    constraint dashboard_permission_is_given_once unique (dashboard_id, member_id)
);

-- Lookups such as document_id.title are read by the capturing role, which may read nothing on its own.
grant select (id, name) on workspace, member, role, dashboard to audit_capture;
grant select (id, title) on document to audit_capture;

select audit.enable_tracking('workspace',
    resource_name_column => 'name',
    workspace_column => 'id');
select audit.enable_tracking('member',
    resource_name_column => 'name',
    excluded_columns => '{last_seen_at}',
    redacted_columns => '{calendar_token}');
select audit.enable_tracking('member_role',
    kind => 'role',
    resource_type => 'member',
    resource_id_columns => '{member_id}',
    resource_name_column => 'member_id.name',
    subject_column => 'role_id.name');
select audit.enable_tracking('document',
    resource_name_column => 'title',
    column_events => '{"documentation_updated": ["description"]}',
    soft_delete_column => 'archived_at',
    excluded_columns => '{updated_at}');
select audit.enable_tracking('dashboard',
    resource_name_column => 'name',
    column_events => '{"documentation_updated": ["description"]}',
    excluded_columns => '{updated_at}');
select audit.enable_tracking('dataset',
    resource_name_column => 'id',
    column_events => '{"documentation_updated": ["description"]}',
    excluded_columns => '{updated_at}');
select audit.enable_tracking('dataset_column',
    resource_type => 'column',
    resource_name_column => 'name',
    column_events => '{"documentation_updated": ["description"]}');
select audit.enable_tracking('document_permission',
    kind => 'permission',
    resource_type => 'document',
    resource_id_columns => '{document_id}',
    resource_name_column => 'document_id.title',
    subject_column => 'member_id.name');
select audit.enable_tracking('dashboard_permission',
    kind => 'permission',
    resource_type => 'dashboard',
    resource_id_columns => '{dashboard_id}',
    resource_name_column => 'dashboard_id.name',
    subject_column => 'member_id.name');
