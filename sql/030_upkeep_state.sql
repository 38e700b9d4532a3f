-- What the log knows about itself: its settings, its upkeep and its version.

set search_path = pg_catalog, pg_temp;

create table if not exists audit.schema_version (
    version_num character varying(32) not null,
    constraint schema_version_pkc primary key (version_num)
);
comment on table audit.schema_version is
    'The version of this schema, one row, in the form Alembic keeps it; "daybook migrate" goes on from here.';
comment on column audit.schema_version.version_num is
    'Number of the last migration that this schema contains. Never null.';

create table audit.upkeep (
    only_row boolean not null default true,
    retention_days integer not null default 90,
    days_ahead integer not null default 30,
    installed_at timestamptz not null default clock_timestamp(),
    last_run_at timestamptz,
    last_problem text,
    oldest_day date,
    oldest_day_since timestamptz,
    is_bypassed boolean not null default false,
    constraint upkeep_has_one_row primary key (only_row),
    constraint only_row_is_true check (only_row),
    constraint retention_is_between_a_day_and_ten_years check (retention_days between 1 and 3650),
    constraint days_ahead_is_between_a_day_and_a_year check (days_ahead between 1 and 366)
);
insert into audit.upkeep default values;

create function audit.replace_upkeep()
    returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
begin
    delete from audit.upkeep;
    return new;
end
$function$;
comment on function audit.replace_upkeep() is
    'Trigger on audit.upkeep: a new row takes the place of the one that is there, so that the row of a dump comes into a log that was installed before.';
create trigger row_is_replaced
    before insert on audit.upkeep
    for each row execute function audit.replace_upkeep();

comment on table audit.upkeep is
    'Settings and state of the log''s upkeep, one row. retention_days and days_ahead are changed here, as audit_owner; the rest is written by audit.maintain().';
comment on column audit.upkeep.only_row is 'Always true: keeps the table at one row.';
comment on column audit.upkeep.retention_days is 'Whole UTC days an entry is kept, 1 to 3650. Never null.';
comment on column audit.upkeep.days_ahead is 'Day partitions made ahead of today, 1 to 366. Never null.';
comment on column audit.upkeep.installed_at is 'When the log was installed in this database. Never null.';
comment on column audit.upkeep.last_run_at is 'When upkeep last finished. Null: it never ran.';
comment on column audit.upkeep.last_problem is 'What the last run could not do, in a sentence. Null: nothing.';
comment on column audit.upkeep.oldest_day is 'First UTC day that retention still keeps; days below it are dropped by a later run. Null: upkeep never ran.';
comment on column audit.upkeep.oldest_day_since is 'When oldest_day was last moved: the days below it are dropped five minutes later at the earliest. Null: upkeep never ran.';
comment on column audit.upkeep.is_bypassed is 'Whether audit.check() last listed a bypass: what readers of a workspace are told of it. Never null.';

create sequence audit.floor as bigint minvalue 0 start 0;
comment on sequence audit.floor is
    'The least created_at a new entry may take, in microseconds since 1970-01-01 UTC. Outside transactions on purpose: every writer sees it at once, and a clock that steps back cannot go below it.';
