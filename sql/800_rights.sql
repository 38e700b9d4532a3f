-- Every owner, grant and policy of the log, on one page. Application roles get nothing here; the owner of a tracked table gets,
-- from enable_tracking, what it takes to attach partitions later.

set search_path = pg_catalog, pg_temp;

-- Owners: everything belongs to audit_owner, save what holds him back, which stays with the superuser who installs: the guards,
-- the schema, whose owner could drop them, and what runs with that superuser's rights. Compiled capture functions are given to audit_capture when they are made.
do $owners$
declare
    item record;
    installer_is_superuser constant boolean := (select rolsuper from pg_catalog.pg_roles where rolname = current_user);
begin
    if not installer_is_superuser then
        alter schema audit owner to audit_owner;
    end if;
    grant usage, create on schema audit to audit_owner with grant option;
    for item in
        select c.oid::regclass::text as name,
               case c.relkind when 'v' then 'view' when 'S' then 'sequence' else 'table' end as kind
        from pg_catalog.pg_class c
        where c.relnamespace = 'audit'::regnamespace and c.relkind in ('r', 'p', 'v', 'S')
          -- An identity column's sequence follows its table.
          and not exists (select from pg_catalog.pg_depend d
                          where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'i' and c.relkind = 'S')
    loop
        execute format('alter %s %s owner to audit_owner', item.kind, item.name);
    end loop;
    for item in
        select p.oid::regprocedure::text as name
        from pg_catalog.pg_proc p where p.pronamespace = 'audit'::regnamespace
          and not (installer_is_superuser and p.proname in (
              'refuse_alteration', 'guard_alteration', 'guard_rewrite', 'guard_drop', 'follow_identity', 'create_event_triggers', 'admit_to_schema',
              'keep_lookups', 'lookup_body', 'lookup_name', 'find_lookup', 'lookups_run_as_owner', 'runs_code_when_read',
              'runs_code_when_read_sql', 'compares_without_casts', 'text_sql', 'base_type', 'is_core_type', 'entry_words'))
    loop
        execute format('alter function %s owner to audit_owner', item.name);
    end loop;
    alter type audit.actor_context owner to audit_owner;
    alter type audit.lookup owner to audit_owner;
    alter type audit.row_column owner to audit_owner;
    alter type audit.table_span owner to audit_owner;
    alter type audit.row_change owner to audit_owner;
    alter type audit.reader owner to audit_owner;
    alter type audit.search_hit owner to audit_owner;
end
$owners$;

-- PUBLIC has nothing.
revoke all on schema audit from public;
revoke all on all tables in schema audit from public;
revoke all on all sequences in schema audit from public;
revoke all on all functions in schema audit from public;
revoke all on type audit.actor_context, audit.lookup, audit.reader, audit.row_column, audit.table_span, audit.row_change,
    audit.search_hit from public;

-- audit_owner: puts the refusal of alterations on new days, lets the owners of tracked tables in, has lookups made.
grant execute on function
    audit.refuse_alteration(), audit.admit_to_schema(name), audit.keep_lookups(bigint, oid, text[]), audit.lookup_body(oid, text),
    audit.lookup_name(bigint, text), audit.find_lookup(oid, text), audit.lookups_run_as_owner(), audit.runs_code_when_read(oid),
    audit.runs_code_when_read_sql(text, boolean), audit.compares_without_casts(oid, oid, oid), audit.text_sql(text, oid),
    audit.base_type(oid), audit.is_core_type(oid), audit.entry_words(text, text, jsonb, jsonb)
    to audit_owner;

-- Row-level security: enabled, not forced (forced, capture itself would fail). The workspace is the one that the reader's own
-- transaction names, read once for a query: as a bare call it would be made for each row.
alter table audit.entry enable row level security;
alter table audit.change enable row level security;
alter table audit.daily_activity enable row level security;
alter table audit.activity_total enable row level security;
alter table audit.open_entry enable row level security;
alter table audit.open_words enable row level security;
create policy reader_sees_own_workspace on audit.entry for select to audit_reader
    using (workspace_id = (select current_setting('audit.reader_workspace', true)));
create policy reader_sees_own_workspace on audit.change for select to audit_reader
    using (workspace_id = (select current_setting('audit.reader_workspace', true)));
create policy reader_sees_own_workspace on audit.daily_activity for select to audit_reader
    using (workspace_id = (select current_setting('audit.reader_workspace', true)));
create policy reader_sees_own_workspace on audit.activity_total for select to audit_reader
    using (workspace_id = (select current_setting('audit.reader_workspace', true)));
create policy reader_sees_own_workspace on audit.open_entry for select to audit_reader
    using (workspace_id = (select current_setting('audit.reader_workspace', true)));
create policy dba_sees_everything on audit.entry for select to audit_dba using (true);
create policy dba_sees_everything on audit.change for select to audit_dba using (true);
create policy dba_sees_everything on audit.daily_activity for select to audit_dba using (true);
create policy dba_sees_everything on audit.activity_total for select to audit_dba using (true);
create policy dba_sees_everything on audit.open_entry for select to audit_dba using (true);
create policy dba_sees_everything on audit.open_words for select to audit_dba using (true);
create policy capture_inserts on audit.entry for insert to audit_capture with check (true);
create policy capture_inserts on audit.change for insert to audit_capture with check (true);

-- audit_capture: inserts entries and nothing else.
grant usage on schema audit to audit_capture;
grant insert on audit.entry, audit.change to audit_capture;
grant select on audit.floor to audit_capture;
grant usage on type audit.actor_context to audit_capture;
grant execute on function
    audit.new_entry_id(timestamptz), audit.new_entry_id_at(bigint), audit.moment_at(bigint), audit.write_moment(), audit.write_instant(),
    audit.read_actor_context(), audit.given_actor(), audit.actor_is_plain(text), audit.has_context(text), audit.plain_actor_type(),
    audit.plain_context(), audit.passes_its_rows(oid, name, text), audit.take_settings(), audit.give_settings_back(text[]),
    audit.split_edge(text), audit.table_has_shape(oid, text), audit.shape_sql(text),
    audit.capture_pieces(bigint, oid, text, oid[], boolean), audit.row_types_sql(text, text[]), audit.changed_columns_sql(jsonb), audit.pair_sql(), audit.object_sql(jsonb, text),
    audit.row_event_sql(jsonb, text, text[]), audit.row_sql(jsonb, text, text[]), audit.bulk_sql(jsonb, text, text[]),
    audit.refuse_unsigned_actor(text, text), audit.signature_problem(text),
    audit.truncate_sql(jsonb, oid, boolean), audit.count_is_exact(oid), audit.runs_code_when_read(oid),
    audit.runs_code_when_read_sql(text, boolean), audit.changed_object_sql(jsonb, text)
    to audit_capture;

-- audit_writer: an application's role that owns tables to track, or records events.
grant usage on schema audit to audit_writer;
grant execute on function
    audit.set_actor(text, text, text), audit.set_context(text, text, text, text, jsonb),
    audit.record(text, text, text, text, text, jsonb),
    audit.enable_tracking(regclass, text, text, text, text[], text, text, text, text, text, jsonb, jsonb, text, text[], text[], integer, text),
    audit.disable_tracking(regclass), audit.require_signed_actor(regclass, boolean), audit.store_signed_actor(oid, boolean),
    audit.prove_ownership(), audit.show_ownership(oid), audit.hide_ownership(oid),
    audit.primary_key_columns(oid), audit.refuse_unknown_columns(oid, text, text[]), audit.refuse_unusable_path(oid, text, text),
    audit.refuse_bad_events(oid, jsonb, jsonb), audit.find_lookup(oid, text), audit.lookups_run_as_owner(),
    audit.compares_without_casts(oid, oid, oid), audit.base_type(oid), audit.is_core_type(oid),
    audit.runs_code_when_read(oid), audit.runs_code_when_read_sql(text, boolean), audit.own_events(), audit.is_event_name(text),
    audit.store_tracking(oid, jsonb), audit.remove_tracking(oid),
    audit.partitions_of(oid), audit.create_capture_triggers(oid, text)
    to audit_writer;
grant usage on type audit.lookup to audit_writer;

-- audit_reader: the REST app, in the workspace named in its transaction.
grant usage on schema audit to audit_reader;
grant select on audit.entry, audit.change, audit.timeline, audit.timeline_change, audit.daily_activity, audit.activity_total,
    audit.open_entry
    to audit_reader;
grant execute on function
    audit.find_key(text, bytea), audit.find_session(text, bytea), audit.open_session(text, bytea, text, bytea),
    audit.close_session(text, bytea), audit.reading_is_noted(text, text), audit.note_reading(audit.reader),
    audit.note_export(audit.reader, jsonb, bigint), audit.note_denied_write(audit.reader, text, text),
    audit.retention_days(), audit.upkeep_is_late(), audit.is_bypassed(), audit.entry_moment(uuid), audit.reading_bounds(),
    audit.activity_digest(text[]), audit.search(text, timestamptz, timestamptz),
    audit.integrity(), audit.workspace_misfits()
    to audit_reader;
grant usage on type audit.reader, audit.search_hit to audit_reader;

-- audit_dba: reads everything, partitions included (granted where they are made), save the digests of keys.
grant usage on schema audit to audit_dba;
grant select on audit.entry, audit.change, audit.timeline, audit.timeline_change, audit.day_partition,
    audit.tracked_table, audit.rewritten_table, audit.upkeep, audit.day_hold, audit.reading, audit.schema_version, audit.floor,
    audit.watermark, audit.daily_activity, audit.activity_total, audit.closed_day, audit.open_entry, audit.open_words,
    audit.seal, audit.sealing, audit.verification
    to audit_dba;
grant select (prefix, workspace_id, name, role, created_at, expires_at, lifetime, revoked_at) on audit.api_key to audit_dba;
grant select (id, name, created_at) on audit.actor_key to audit_dba;
grant select on audit.signing_login to audit_dba;
grant select (prefix, key_prefix, opened_at, ends_at) on audit.page_session to audit_dba;
grant execute on function
    audit.check(), audit.upkeep_status(), audit.list_keys(text), audit.retention_days(), audit.upkeep_is_late(), audit.is_bypassed(), audit.entry_moment(uuid),
    audit.day_start(date), audit.utc_day(timestamptz), audit.days_past_retention(), audit.dropped_until(), audit.day_is_held(text), audit.watermark_holder(), audit.reading_bounds(),
    audit.reading_indexes(), audit.entry_words(text, text, jsonb, jsonb), audit.days_to_close(),
    audit.row_history(regclass, text), audit.row_history(text, text, text),
    audit.row_as_of(regclass, text, timestamptz), audit.row_as_of(text, text, text, timestamptz),
    audit.row_image(audit.table_span[], text, timestamptz, boolean), audit.row_changes(audit.table_span[], text),
    audit.alter_row_image(jsonb, jsonb), audit.key_after(audit.row_change, text, audit.table_span), audit.table_spans(text, text),
    audit.primary_key_columns(oid), audit.bounded_sql(text),
    audit.integrity(), audit.sealed_until(), audit.seal_bounds(interval, interval), audit.day_awaits_seal(text), audit.blocks_of_day(text),
    audit.note_verification(timestamptz, timestamptz, bigint, bigint, bigint, jsonb)
    to audit_dba;
grant usage on type audit.table_span, audit.row_change to audit_dba;

-- audit_maintainer: upkeep and keys; becomes audit_owner by SET ROLE for what functions cannot do.
grant usage on schema audit to audit_maintainer;
grant select on audit.day_partition, audit.tracked_table, audit.upkeep, audit.day_hold, audit.watermark, audit.closed_day,
    audit.seal, audit.sealing, audit.verification
    to audit_maintainer;
grant execute on function
    audit.take_upkeep_turn(), audit.maintain(), audit.prepare_days(integer, integer), audit.advance_watermark(), audit.watermark_holder(),
    audit.advance_counts(interval), audit.recount(), audit.days_to_close(), audit.close_day(text), audit.note_frozen(text),
    audit.drop_day(text, jsonb), audit.count_day(text), audit.days_past_retention(), audit.dropped_until(), audit.day_is_held(text),
    audit.move_oldest_day(), audit.hold_day(date, text), audit.release_day(date), audit.note_upkeep(text), audit.note_check(),
    audit.follow_table(bigint, text), audit.check(), audit.upkeep_status(), audit.upkeep_is_late(), audit.is_bypassed(), audit.retention_days(),
    audit.day_start(date), audit.utc_day(timestamptz),
    audit.create_key(text, bytea, text, text, text, timestamptz), audit.rotate_key(text, text, bytea, interval, timestamptz),
    audit.revoke_key(text), audit.list_keys(text),
    audit.integrity(), audit.sealed_until(), audit.seal_bounds(interval, interval), audit.day_awaits_seal(text), audit.blocks_of_day(text),
    audit.add_seal(bigint, timestamptz, timestamptz, timestamptz, bigint, bigint, bytea, bytea, bytea, bytea, bytea, bytea),
    audit.note_sealing(text), audit.note_verification(timestamptz, timestamptz, bigint, bigint, bigint, jsonb),
    audit.add_actor_key(text), audit.revoke_actor_key(text), audit.require_signed_actor_of(name, boolean)
    to audit_maintainer;
grant select (id, name, created_at) on audit.actor_key to audit_maintainer;
grant select on audit.signing_login to audit_maintainer;
