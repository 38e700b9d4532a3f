-- An index of the days that are not closed, beside them: upkeep makes it of what is final, so that reading is fast and writers,
-- whose days carry two indexes, pay nothing. Whatever stands in these tables stands in the log too.

set search_path = pg_catalog, pg_temp;

create table audit.open_entry (
    workspace_id text collate "C" not null,
    created_at timestamptz not null,
    id uuid not null,
    event text collate "C" not null,
    resource_type text collate "C" not null,
    actor_id text collate "C" not null,
    request_id text collate "C",
    constraint open_entry_is_indexed_once primary key (workspace_id, created_at, id)
);
create index open_entry_by_event on audit.open_entry (workspace_id, event, created_at, id);
create index open_entry_by_type on audit.open_entry (workspace_id, resource_type, created_at, id);
create index open_entry_by_actor on audit.open_entry (workspace_id, actor_id, created_at, id);
create index open_entry_by_request on audit.open_entry (request_id, created_at, id) where request_id is not null;
comment on table audit.open_entry is
    'The entries of workspaces from audit.watermark.indexed_from up to counted_until, by what lists ask for. Below indexed_from days are closed, or soon will be. Written by audit.advance_counts() and audit.close_day().';
comment on column audit.open_entry.workspace_id is 'The entry''s workspace. Never null.';
comment on column audit.open_entry.created_at is 'The entry''s created_at. Never null.';
comment on column audit.open_entry.id is 'The entry. Never null.';
comment on column audit.open_entry.event is 'Its event. Never null.';
comment on column audit.open_entry.resource_type is 'Its kind of resource. Never null.';
comment on column audit.open_entry.actor_id is 'Its actor. Never null.';
comment on column audit.open_entry.request_id is 'Its request. Null: not named.';

create table audit.open_words (
    workspace_id text collate "C" not null,
    created_at timestamptz not null,
    id uuid not null,
    words tsvector
);
create index open_words_by_word on audit.open_words using gin (words) with (gin_pending_list_limit = 65536);
create index open_words_left_out on audit.open_words (workspace_id, created_at) where words is null;
comment on table audit.open_words is
    'The words of the entries in audit.open_entry, as audit.entry_words gives them: a row for each entry, and one for each changed row of a bulk entry. Read by audit.search() only.';
comment on column audit.open_words.workspace_id is 'The entry''s workspace. Never null.';
comment on column audit.open_words.created_at is 'The entry''s created_at. Never null.';
comment on column audit.open_words.id is 'The entry that is found by these words. Never null.';
comment on column audit.open_words.words is
    'The words. Null: the changed rows of this bulk entry are too many to be indexed here, a search reads them.';

create function audit.forget_indexed(until timestamptz)
    returns void
    language sql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
begin atomic
    -- At once: whoever reads by an older border has the older snapshot too.
    delete from audit.open_entry e where e.created_at < until;
    delete from audit.open_words w where w.created_at < until;
    update audit.watermark set indexed_from = until;
end;
comment on function audit.forget_indexed(timestamptz) is
    'Takes what lies below a moment out of the index of the open days, and notes that nothing there is in it.';

create function audit.index_stretch(indexed_from timestamptz, indexed_to timestamptz)
    returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    set plan_cache_mode = 'force_custom_plan'
    set jit = 'off'
    -- How many changed rows there are no estimate tells.
    set enable_nestloop = off
as $function$
declare
    -- So many take a second or less; a longer stretch takes longer in any case.
    most_rows constant bigint := 20000 * ceil(extract(epoch from indexed_to - indexed_from) / 3600);
    day constant date := audit.utc_day(indexed_from);
begin
    execute format($sql$
        with read as materialized (
            select f.* from (%s) f where f.workspace_id is not null
        ), kept as (
            insert into audit.open_entry (workspace_id, created_at, id, event, resource_type, actor_id, request_id)
            select workspace_id, created_at, id, event, resource_type, actor_id, request_id from read
        ), bulk as materialized (
            -- The smaller entries come first; the rest waits until the day is closed.
            select workspace_id, created_at, id, sum(row_count) over (order by row_count, id) <= $5 as is_indexed
            from read where row_count > 1 and operation <> 'TRUNCATE'
        ), chosen as materialized (
            select created_at, id from bulk where is_indexed
        )
        insert into audit.open_words (workspace_id, created_at, id, words)
        select workspace_id, created_at, id, audit.entry_words(resource_name, actor_name, before, after) from read
        union all
        select workspace_id, created_at, id, null from bulk where not is_indexed
        union all
        select c.workspace_id, c.created_at, c.entry_id, audit.entry_words(c.resource_name, null, c.before, c.after)
        from audit.change c
        where (select true from chosen limit 1)
          and c.created_at >= $1 and c.created_at < $2 and c.workspace_id is not null
          and c.entry_id >= (select x.id from chosen x order by x.id limit 1)
          and c.entry_id <= (select x.id from chosen x order by x.id desc limit 1)
          and (c.entry_id, c.created_at) in (select x.id, x.created_at from chosen x)
        $sql$, audit.stretch_sql(false))
    using indexed_from, indexed_to, audit.day_start(day), audit.day_start(day + 1), most_rows;
    -- Sorted in at once; else a search would look through what was added one by one, until a vacuum comes by.
    perform gin_clean_pending_list('audit.open_words_by_word'::regclass);
exception
    when program_limit_exceeded then
        -- A value is longer than an index holds: of these entries each is read.
        perform audit.forget_indexed(indexed_to);
end
$function$;
comment on function audit.index_stretch(timestamptz, timestamptz) is
    'Puts the entries of a stretch of one UTC day, all of them final, into the index of the open days. A value that no index can hold leaves all of it up to there out.';
