-- Search by words: in the names of an entry and its changed values. Indexes answer, on closed days their
-- own, on open days the one that upkeep keeps beside them; what has neither yet is read.

set search_path = pg_catalog, pg_temp;

create function audit.entry_words(resource_name text, actor_name text, before jsonb, after jsonb)
    returns tsvector
    language sql
    immutable
    parallel safe
    -- Dear: what is cheap is asked first.
    cost 1000
-- Values without their keys. Cut, because a tsvector holds a megabyte at most and more is an error.
return to_tsvector('pg_catalog.simple'::regconfig, left(
    coalesce(resource_name, '') || ' ' || coalesce(actor_name, '')
    || coalesce((select string_agg(' ' || left(v #>> '{}', 100000), '')
                 from jsonb_path_query(before, 'strict $.** ? (@.type() == "string" || @.type() == "number")') v), '')
    || coalesce((select string_agg(' ' || left(v #>> '{}', 100000), '')
                 from jsonb_path_query(after, 'strict $.** ? (@.type() == "string" || @.type() == "number")') v), ''),
    100000));
comment on function audit.entry_words(text, text, jsonb, jsonb) is
    'The words by which an entry or a changed row is found: its names and the values before and after, without the columns'' names; of these texts the first 100,000 characters. Changing it wants every index named …_words made anew.';

create type audit.search_hit as (
    id uuid,
    created_at timestamptz,
    event text,
    resource_type text,
    resource_id text,
    resource_name text,
    actor_id text,
    actor_name text,
    request_id text,
    row_count bigint
);
comment on type audit.search_hit is 'An entry that audit.search found: what lists filter and sort by.';

create function audit.search(words text, since timestamptz, until timestamptz)
    returns setof audit.search_hit
    language plpgsql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
    -- The plan must know the days.
    set plan_cache_mode = 'force_custom_plan'
    set jit = 'off'
as $function$
declare
    -- Never an argument: what a reader may see is his transaction's alone.
    workspace constant text := current_setting('audit.reader_workspace', true);
    query constant tsquery := plainto_tsquery('pg_catalog.simple', words);
    indexed_from timestamptz;
    indexed_until timestamptz;
    stretch record;
    ids uuid[];
begin
    select greatest(since, b.indexed_from), least(until, b.counted_until) into indexed_from, indexed_until
    from audit.reading_bounds() b
    where b.indexed_from < least(until, b.counted_until) and since < b.counted_until;

    -- Before and after what upkeep has indexed beside the open days; all, where it has indexed nothing.
    for stretch in
        select * from (values (since, coalesce(indexed_from, until), false), (coalesce(indexed_until, until), until, true))
                      s (lower, upper, is_recent)
        where s.lower < s.upper
    loop
        return query
        with touched as materialized (
            select distinct c.created_at, c.entry_id
            from audit.change c
            where c.workspace_id = workspace and c.created_at >= stretch.lower and c.created_at < stretch.upper
              -- No index tells the recent ones from the others of an open day: they are looked for only where there are any.
              and (not stretch.is_recent or exists (
                  select from audit.entry e
                  where e.workspace_id = workspace and e.created_at >= stretch.lower and e.created_at < stretch.upper
                    and e.row_count > 1))
              and audit.entry_words(c.resource_name, null, c.before, c.after) @@ query
        )
        select e.id, e.created_at, e.event, e.resource_type, e.resource_id, e.resource_name, e.actor_id, e.actor_name,
               e.request_id, e.row_count
        from audit.entry e
        where e.workspace_id = workspace and e.created_at >= stretch.lower and e.created_at < stretch.upper
          and audit.entry_words(e.resource_name, e.actor_name, e.before, e.after) @@ query
        union all
        -- OFFSET 0: one by one, each in the day that its moment names. Those that hold the words themselves are found above.
        select found.*
        from touched
        cross join lateral (
            select e.id, e.created_at, e.event, e.resource_type, e.resource_id, e.resource_name, e.actor_id, e.actor_name,
                   e.request_id, e.row_count
            from audit.entry e
            where e.workspace_id = workspace and e.created_at >= stretch.lower and e.created_at < stretch.upper
              and e.created_at = touched.created_at and e.id = touched.entry_id
              and not audit.entry_words(e.resource_name, e.actor_name, e.before, e.after) @@ query
            offset 0) found;
    end loop;

    if indexed_from is null then
        return;
    end if;
    select array_agg(w.id) into ids
    from audit.open_words w
    where w.workspace_id = workspace and w.created_at >= indexed_from and w.created_at < indexed_until and w.words is null;
    return query
    select e.id, e.created_at, e.event, e.resource_type, e.resource_id, e.resource_name, e.actor_id, e.actor_name,
           e.request_id, e.row_count
    from (
        select w.created_at, w.id
        from audit.open_words w
        where w.workspace_id = workspace and w.created_at >= indexed_from and w.created_at < indexed_until
          and w.words @@ query
        union
        select c.created_at, c.entry_id
        from audit.change c
        where ids is not null and c.workspace_id = workspace and c.entry_id = any(ids)
          and c.created_at >= indexed_from and c.created_at < indexed_until
          and audit.entry_words(c.resource_name, null, c.before, c.after) @@ query
    ) hit
    join audit.entry e on e.created_at = hit.created_at and e.id = hit.id
    where e.workspace_id = workspace and e.created_at >= indexed_from and e.created_at < indexed_until;
end
$function$;
comment on function audit.search(text, timestamptz, timestamptz) is
    'The entries of the workspace that the transaction names (audit.reader_workspace), within a stretch of time, that hold every one of the words, in an entry''s own values or in those of one of its rows.';
