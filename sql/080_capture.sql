-- From a changed row to an entry: the SQL that a tracked table's trigger runs, generated from its settings and the catalogue.
--
-- capture_pieces() reads settings and catalogue and returns the fragments of SQL of one table as jsonb. Everything after it is
-- text alone: the compiled function holds the fragments as literals; one whose table changed behind its back asks for them
-- afresh, so that both ways run the same statements.

set search_path = pg_catalog, pg_temp;

create function audit.base_type(type_oid oid)
    returns oid
    language sql
    stable
begin atomic
    with recursive looked_through as (
        select t.oid, t.typbasetype from pg_catalog.pg_type t where t.oid = type_oid
        union all
        select t.oid, t.typbasetype from looked_through d join pg_catalog.pg_type t on t.oid = d.typbasetype
    )
    select oid from looked_through where typbasetype = 0;
end;
comment on function audit.base_type(oid) is 'The type below a domain, through domains of domains; the type itself when it is none.';

create function audit.is_core_type(type_oid oid)
    returns boolean
    language sql
    immutable
    parallel safe
return type_oid < 16384;
comment on function audit.is_core_type(oid) is
    'Whether the type came with the server (OIDs below FirstNormalObjectId): no application can attach a cast to it that capture would run.';

create function audit.equality_is_identity(type_oid oid, collation_oid oid)
    returns boolean
    language sql
    stable
begin atomic
    select exists (
        select
        from pg_catalog.pg_type t
        join pg_catalog.pg_opclass c
            on c.opcdefault
           and c.opcmethod = (select oid from pg_catalog.pg_am where amname = 'btree')
           and c.opcintype = case when t.typtype = 'e' then 'anyenum'::regtype::oid
                                  when t.oid = 'varchar'::regtype then 'text'::regtype::oid
                                  else t.oid end
        join pg_catalog.pg_amproc p
            on p.amprocfamily = c.opcfamily and p.amproclefttype = c.opcintype
           and p.amprocrighttype = c.opcintype and p.amprocnum = 4
        where t.oid = type_oid
          and c.opcnamespace = 'pg_catalog'::regnamespace
          and p.amproc::text in ('btequalimage', 'btvarstrequalimage'))
        and coalesce((select collisdeterministic from pg_catalog.pg_collation where oid = collation_oid), true);
end;
comment on function audit.equality_is_identity(oid, oid) is
    'Whether equal values of the type are also the same bytes (its btree class says equalimage, manual 67.5, and the collation is deterministic), so that a plain comparison misses no change.';

create function audit.value_sql(value text, type_oid oid, max_bytes integer)
    returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    base constant oid := audit.base_type(type_oid);
    cut constant text :=
        'jsonb_build_object(''cut'', true, ''bytes'', octet_length(%1$s), ''sha256'', encode(sha256(%2$s), ''hex''))';
    as_text text;
begin
    if audit.is_core_type(base) and (select typlen from pg_type where oid = base) > 0 then
        return format('to_jsonb(%s)', value);
    elsif base = 'bytea'::regtype then
        return format('case when octet_length(%1$s) > %2$s then %3$s else to_jsonb(%1$s) end',
                      value, max_bytes, format(cut, value, value));
    elsif base in ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype) then
        return format('case when octet_length(%1$s) > %2$s then %3$s else to_jsonb(%1$s) end',
                      value, max_bytes, format(cut, value, format('convert_to(%s, getdatabaseencoding())', value)));
    end if;

    -- A type of the application goes through its output function: to_jsonb and ::text would run casts that its owner made.
    -- json too, by its text: \u0000 in it makes to_jsonb raise, and its white space is part of its value.
    if audit.is_core_type(base) and base not in ('json'::regtype, 'json[]'::regtype) then
        as_text := format('(%s)::text', value);
        -- The text is made only where it could be too long: no compression shrinks a value 256-fold.
        return format('case when pg_column_size(%1$s) > %2$s and octet_length(%3$s) > %4$s then %5$s else to_jsonb(%1$s) end',
                      value, max_bytes / 256, as_text, max_bytes,
                      format(cut, as_text, format('convert_to(%s, getdatabaseencoding())', as_text)));
    end if;
    as_text := format('format(''%%s'', %s)', value);
    return format('case when %1$s is not distinct from null then null '
                  'when pg_column_size(%1$s) > %2$s and octet_length(%3$s) > %4$s then %5$s else to_jsonb(%3$s) end',
                  value, max_bytes / 256, as_text, max_bytes,
                  format(cut, as_text, format('convert_to(%s, getdatabaseencoding())', as_text)));
end
$function$;
comment on function audit.value_sql(text, oid, integer) is
    'The SQL that turns a column reference of a type into the jsonb an entry stores, cut above max_bytes.';

create function audit.text_sql(value text, type_oid oid)
    returns text
    language sql
    stable
begin atomic
    select case
        when audit.is_core_type(audit.base_type(type_oid)) then format('(%s)::text', value)
        else format('case when not (%1$s is not distinct from null) then format(''%%s'', %1$s) end', value)
    end;
end;
comment on function audit.text_sql(text, oid) is 'The SQL that turns a column reference of a type into text, running no cast of the application.';

create function audit.bounded_sql(value text)
    returns text
    language sql
    immutable
    parallel safe
    -- A btree holds 2704 bytes: a longer id must not fail the write.
return format('case when octet_length(%1$s) > 2000 then left(%1$s, 200) || ''…'' || encode(sha256(convert_to(%1$s, getdatabaseencoding())), ''hex'') else %1$s end', value);
comment on function audit.bounded_sql(text) is
    'The SQL that keeps a text as it is up to 2000 bytes, and a longer one by its beginning and SHA-256, so that it still tells things apart.';

create function audit.key_sql(alias text, relation oid, columns text[])
    returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    parts text[];
    is_short boolean;
begin
    if columns is null or cardinality(columns) = 0 then
        return 'null::text';
    end if;
    select array_agg(
        case when cardinality(columns) = 1 or not audit.is_core_type(audit.base_type(a.atttypid))
             then audit.text_sql(format('%s.%I', alias, a.attname), a.atttypid)
             else format('%s.%I', alias, a.attname) end
        order by k.position),
        bool_and(t.typlen > 0)
    into parts, is_short
    from unnest(columns) with ordinality k(name, position)
    join pg_attribute a on a.attrelid = relation and a.attname = k.name and a.attnum > 0 and not a.attisdropped
    join pg_type t on t.oid = a.atttypid;
    if parts is null or cardinality(parts) < cardinality(columns) then
        return 'null::text';
    end if;
    if is_short and cardinality(columns) = 1 then
        return parts[1];
    end if;
    return audit.bounded_sql(case when cardinality(columns) = 1 then parts[1]
                                  else format('jsonb_build_array(%s)::text', array_to_string(parts, ', ')) end);
end
$function$;
comment on function audit.key_sql(text, oid, text[]) is
    'The SQL that turns a row''s key columns into the text of resource_id and row_key. A column that is gone makes it null.';

create function audit.primary_key_columns(relation oid)
    returns text[]
    language sql
    stable
begin atomic
    select array_agg(a.attname::text order by k.position)
    from pg_catalog.pg_index i
    cross join lateral unnest(i.indkey::smallint[]) with ordinality k(number, position)
    join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number
    where i.indrelid = relation and i.indisprimary and k.position <= i.indnkeyatts;
end;
comment on function audit.primary_key_columns(oid) is 'Columns of a table''s primary key in its order. Null: it has none.';

create function audit.runs_code_when_read_sql(relation text, is_partitioned boolean)
    returns text
    language sql
    immutable
    parallel safe
return format(
    '(exists (select from pg_catalog.pg_index i where i.indrelid %1$s and (i.indexprs is not null or i.indpred is not null)) '
    'or exists (select from pg_catalog.pg_statistic_ext s where s.stxrelid %1$s and s.stxexprs is not null) '
    'or exists (select from pg_catalog.pg_partitioned_table p where p.partrelid %1$s and p.partexprs is not null))',
    format(case when is_partitioned then 'in (select relid from pg_catalog.pg_partition_tree(%s::regclass))' else '= %s' end, relation));
comment on function audit.runs_code_when_read_sql(text, boolean) is
    'The SQL that asks whether planning a query on a table would run functions of its owner: those in index expressions and predicates, extended statistics and partition keys.';

create function audit.runs_code_when_read(relation oid)
    returns boolean
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    answer boolean;
begin
    execute 'select ' || audit.runs_code_when_read_sql('$1', (select relkind = 'p' from pg_class where oid = relation))
    into answer using relation;
    return answer;
end
$function$;
comment on function audit.runs_code_when_read(oid) is
    'Whether planning a query on the table would run functions of its owner as the capturing role.';

create type audit.lookup as (
    parent oid,
    parent_key text,
    parent_column text,
    key_operator text,
    problem text
);
comment on type audit.lookup is
    'Where fk_column.column leads: the parent table, its key, the wanted column, the key''s equality operator; or the problem with it.';

create function audit.find_lookup(relation oid, path text)
    returns audit.lookup
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    fk_column constant text := split_part(path, '.', 1);
    wanted constant text := substr(path, length(split_part(path, '.', 1)) + 2);
    found_lookup audit.lookup;
    parent_name text;
    key_readable boolean;
begin
    select c.confrelid, key_column.attname, value_column.attname,
           format('operator(%I.%s)', n.nspname, o.oprname),
           case when not has_schema_privilege('audit_capture', n.oid, 'usage')
                then format('audit_capture may not use schema %I of the key''s operator', n.nspname) end
    into found_lookup
    from pg_constraint c
    join pg_attribute a on a.attrelid = c.conrelid and a.attnum = c.conkey[1]
    join pg_attribute key_column on key_column.attrelid = c.confrelid and key_column.attnum = c.confkey[1]
    join pg_operator o on o.oid = c.conpfeqop[1]
    join pg_namespace n on n.oid = o.oprnamespace
    left join pg_attribute value_column
        on value_column.attrelid = c.confrelid and value_column.attname = wanted
       and value_column.attnum > 0 and not value_column.attisdropped and value_column.attgenerated <> 'v'
    where c.conrelid = relation and c.contype = 'f' and cardinality(c.conkey) = 1 and a.attname = fk_column
    order by (value_column.attname is null), c.oid
    limit 1;

    if found_lookup.parent is null then
        found_lookup.problem := format('column %I has no foreign key of one column to follow', fk_column);
        return found_lookup;
    end if;
    if found_lookup.problem is not null then
        return found_lookup;
    end if;
    parent_name := found_lookup.parent::regclass::text;
    if found_lookup.parent_column is null then
        found_lookup.problem := format('table %s has no column %I to look up', parent_name, wanted);
    elsif not has_schema_privilege('audit_capture', (select relnamespace from pg_class where oid = found_lookup.parent), 'usage') then
        found_lookup.problem := format('audit_capture may not use the schema of %s', parent_name);
    elsif not (has_column_privilege('audit_capture', found_lookup.parent, found_lookup.parent_key, 'select')
               and has_column_privilege('audit_capture', found_lookup.parent, found_lookup.parent_column, 'select')) then
        found_lookup.problem := format('audit_capture may not read %s', parent_name);
    elsif (select relrowsecurity from pg_class where oid = found_lookup.parent) then
        found_lookup.problem := format('table %s has row-level security', parent_name);
    elsif audit.runs_code_when_read(found_lookup.parent) then
        found_lookup.problem := format('table %s has an index, statistics or partitions on expressions, which capture must not run', parent_name);
    end if;
    return found_lookup;
end
$function$;
comment on function audit.find_lookup(oid, text) is
    'Follows fk_column.column over a foreign key of one column; problem says why capture cannot use it, null when it can.';

create function audit.readable_paths(tracked audit.tracked_table, relation oid)
    returns text[]
    language sql
    stable
begin atomic
    select coalesce(array_agg(distinct p.path order by p.path), '{}')
    from unnest(array[tracked.workspace_column, tracked.resource_name_column, tracked.subject_column]) p(path)
    where p.path like '%.%' and (audit.find_lookup(relation, p.path)).problem is null;
end;
comment on function audit.readable_paths(audit.tracked_table, oid) is 'The lookups of a tracked table that capture can read now.';

create function audit.column_or_lookup_sql(alias text, relation oid, path text, length text)
    returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
-- length: bounded keeps what tells things apart, short the first 500 characters, which is enough for a name.
declare
    target audit.lookup;
    type_oid oid;
    value text;
begin
    if path is null then
        return 'null::text';
    end if;
    select atttypid into type_oid
    from pg_attribute
    where attrelid = relation and attname = path and attnum > 0 and not attisdropped and attgenerated <> 'v';
    if found then
        value := audit.text_sql(format('%s.%I', alias, path), type_oid);
        return case when (select typlen from pg_type where oid = type_oid) > 0 then value
                    when length = 'short' then format('left(%s, 500)', value)
                    else audit.bounded_sql(value) end;
    end if;
    if path not like '%.%' then
        return 'null::text';
    end if;
    target := audit.find_lookup(relation, path);
    -- Checked when tracking was turned on; what has become unreadable since must not fail a write, audit.check() tells.
    if target.problem is not null then
        return 'null::text';
    end if;
    select atttypid into type_oid
    from pg_attribute where attrelid = target.parent and attname = target.parent_column;
    value := audit.text_sql(format('audit_p.%I', target.parent_column), type_oid);
    return format('(select %s from %s %s audit_p where audit_p.%I %s %s.%I)',
                  case when length = 'short' then format('left(%s, 500)', value) else audit.bounded_sql(value) end,
                  case when (select relkind from pg_class where oid = target.parent) = 'p' then '' else 'only' end,
                  (select format('%I.%I', n.nspname, c.relname)
                   from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = target.parent),
                  target.parent_key, target.key_operator, alias, split_part(path, '.', 1));
end
$function$;
comment on function audit.column_or_lookup_sql(text, oid, text, text) is
    'The SQL for a column''s text, or for fk_column.column looked up in the parent, of limited length. Null text where neither can be had.';

create function audit.shape_sql(relation text)
    returns text
    language sql
    immutable
    parallel safe
return format(
    '(select concat(count(*), '':'', sum(hashtextextended(attname::text, (atttypid::bigint << 32) + attcollation::bigint))) '
    'from pg_catalog.pg_attribute where attrelid = %s and attnum > 0 and not attisdropped)', relation);
comment on function audit.shape_sql(text) is
    'The SQL of a table''s fingerprint: the names, types and collations of its columns.';

create function audit.table_shape(relation oid)
    returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    shape text;
begin
    execute 'select ' || audit.shape_sql('$1') into shape using relation;
    return shape;
end
$function$;
comment on function audit.table_shape(oid) is 'A table''s fingerprint, which its compiled function compares before each use. Another one after a restore, where types of the application have other OIDs: upkeep compiles anew.';

create function audit.side_pieces(tracked audit.tracked_table, relation oid, alias text)
    returns jsonb
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    key_columns constant text[] := audit.primary_key_columns(relation);
    default_type constant text := coalesce(tracked.resource_type, tracked.table_name);
begin
    return jsonb_build_object(
        'default_type', default_type,
        'constant_workspace', tracked.workspace,
        'workspace', case
            when tracked.workspace is not null then format('%L::text', tracked.workspace)
            when tracked.workspace_setting is not null then format('nullif(left(current_setting(%L, true), 200), '''')', tracked.workspace_setting)
            else format('nullif(%s, '''')', audit.column_or_lookup_sql(alias, relation, tracked.workspace_column, 'bounded')) end,
        'resource_type', case
            when tracked.resource_type_column is null then format('%L::text', default_type)
            else format('coalesce(nullif(nullif(%s, ''''), ''audit_log''), %L)', audit.column_or_lookup_sql(alias, relation, tracked.resource_type_column, 'short'), default_type) end,
        'resource_id', audit.key_sql(alias, relation, coalesce(tracked.resource_id_columns, key_columns)),
        'resource_name', audit.column_or_lookup_sql(alias, relation, tracked.resource_name_column, 'short'),
        'row_key', audit.key_sql(alias, relation, key_columns),
        'subject_id', audit.column_or_lookup_sql(alias, relation, split_part(tracked.subject_column, '.', 1), 'bounded'),
        'subject_name', case when tracked.subject_column like '%.%'
            then audit.column_or_lookup_sql(alias, relation, tracked.subject_column, 'short') else 'null::text' end);
end
$function$;
comment on function audit.side_pieces(audit.tracked_table, oid, text) is
    'The SQL fragments that read one side (old or new) of a changed row, under the given alias.';

create function audit.unfollowed_columns(tracked audit.tracked_table, relation oid)
    returns text[]
    language sql
    stable
begin atomic
    select coalesce(array_agg(a.attname::text), '{}')
    from pg_catalog.pg_attribute a
    where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
      and case
          -- The same table as when it was compiled: its column numbers tell what was renamed.
          when relation = tracked.relation_oid then exists (
              select from jsonb_each_text(tracked.column_numbers) n
              where n.value::smallint = a.attnum and n.key <> a.attname
                and n.key = any(tracked.excluded_columns || tracked.redacted_columns))
          -- Another one, after a restore: a column that was not known then may be the secret one that is missing now.
          else not tracked.column_numbers ? a.attname::text
              and exists (
                  select from unnest(tracked.excluded_columns || tracked.redacted_columns) s(name)
                  where tracked.column_numbers ? s.name
                    and not exists (select from pg_catalog.pg_attribute b
                                    where b.attrelid = relation and b.attname = s.name and not b.attisdropped))
      end;
end;
comment on function audit.unfollowed_columns(audit.tracked_table, oid) is
    'Columns that are, or may be, excluded or redacted ones under a new name which nobody has told the settings: not stored.';

create function audit.capture_pieces(tracked_id bigint, relation oid)
    returns jsonb
    language plpgsql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
declare
    tracked audit.tracked_table;
    columns jsonb;
    events jsonb;
    soft_delete jsonb;
    named audit.tracked_table;
    secret text[];
    root constant oid := coalesce(pg_partition_root(relation), relation);
begin
    select * into strict tracked from audit.tracked_table where id = tracked_id;
    named := tracked;
    if named.table_name is distinct from (select relname from pg_class where oid = root) then
        named.table_name := (select relname from pg_class where oid = root);
    end if;

    secret := audit.unfollowed_columns(tracked, root);
    select jsonb_agg(jsonb_build_object(
        'name', a.attname,
        'changed', case
            when audit.equality_is_identity(audit.base_type(a.atttypid), a.attcollation)
                then format('audit_o.%1$I is distinct from audit_n.%1$I', a.attname)
            else format('record_image_ne(row(audit_o.%1$I), row(audit_n.%1$I))', a.attname) end,
        'before', case
            when a.attname = any(tracked.redacted_columns) then '''{"redacted": true}''::jsonb'
            else audit.value_sql(format('audit_o.%I', a.attname), a.atttypid, tracked.max_value_bytes) end,
        'after', case
            when a.attname = any(tracked.redacted_columns) then '''{"redacted": true}''::jsonb'
            else audit.value_sql(format('audit_n.%I', a.attname), a.atttypid, tracked.max_value_bytes) end)
        order by a.attnum)
    into columns
    from pg_attribute a
    where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
      and a.attgenerated <> 'v'
      and a.attname <> all(tracked.excluded_columns)
      and a.attname <> all(secret);

    events := audit.kind_events(tracked.kind) || coalesce(tracked.events, '{}');
    if tracked.soft_delete_column is not null
       and exists (select from jsonb_array_elements(columns) c where c ->> 'name' = tracked.soft_delete_column) then
        soft_delete := jsonb_build_object(
            'column', tracked.soft_delete_column,
            'deleted', format('audit_o.%1$I is not distinct from null and not (audit_n.%1$I is not distinct from null)', tracked.soft_delete_column),
            'restored', format('audit_n.%1$I is not distinct from null and not (audit_o.%1$I is not distinct from null)', tracked.soft_delete_column));
    end if;

    return jsonb_build_object(
        'table_schema', case when root <> relation or (select relkind from pg_class where oid = relation) = 'p'
            then (select n.nspname from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = root) end,
        'table_name', case when root <> relation or (select relkind from pg_class where oid = relation) = 'p'
            then (select relname from pg_class where oid = root) end,
        'columns', coalesce(columns, '[]'),
        'has_key', audit.primary_key_columns(relation) is not null,
        'old', audit.side_pieces(named, relation, 'audit_o'),
        'new', audit.side_pieces(named, relation, 'audit_n'),
        'events', events,
        'column_events', coalesce((
            select jsonb_agg(jsonb_build_object('event', e.key, 'columns', e.value) order by e.key)
            from jsonb_each(coalesce(tracked.column_events, '{}')) e), '[]'),
        'soft_delete', soft_delete);
end
$function$;
comment on function audit.capture_pieces(bigint, oid) is
    'The SQL fragments that capture a tracked table, from its settings and the catalogue as they are now. The relation may be a partition of it.';

create function audit.object_sql(columns jsonb, side text)
    returns text
    language sql
    immutable
    parallel safe
    -- A function takes 100 arguments: 50 pairs at most in one call.
return coalesce((
    select string_agg(format('jsonb_build_object(%s)', chunk.pairs), ' || ' order by chunk.number)
    from (
        select (c.position - 1) / 50 as number,
               string_agg(format('%L, %s', c.value ->> 'name', c.value ->> side), ', ' order by c.position) as pairs
        from jsonb_array_elements(columns) with ordinality c(value, position)
        group by 1
    ) chunk), '''{}''::jsonb');
comment on function audit.object_sql(jsonb, text) is 'The SQL of a jsonb object of the given columns; side is before or after.';

create function audit.row_event_sql(pieces jsonb, operation text, changed_columns text[])
    returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
-- changed_columns null: code for one row, which finds its changed columns in the variable audit_changed;
-- otherwise SQL for a statement that is known to have changed these columns in some row.
declare
    event_sql constant text := format('%L::text', pieces -> 'events' ->> operation);
    soft_delete constant jsonb := pieces -> 'soft_delete';
    branches text := '';
    column_event jsonb;
    others text;
begin
    if operation <> 'UPDATE' then
        return event_sql;
    end if;
    if soft_delete <> 'null' and (changed_columns is null or soft_delete ->> 'column' = any(changed_columns)) then
        branches := format(' when %s then %L when %s then %L',
            soft_delete ->> 'deleted', pieces -> 'events' ->> 'DELETE',
            soft_delete ->> 'restored', pieces -> 'events' ->> 'RESTORE');
    end if;
    for column_event in select c from jsonb_array_elements(pieces -> 'column_events') c loop
        if changed_columns is null then
            branches := branches || format(' when audit_changed <@ %L::text[] then %L',
                array(select jsonb_array_elements_text(column_event -> 'columns')), column_event ->> 'event');
        elsif changed_columns && array(select jsonb_array_elements_text(column_event -> 'columns')) then
            select string_agg(c ->> 'changed', ' or ') into others
            from jsonb_array_elements(pieces -> 'columns') c
            where c ->> 'name' = any(changed_columns) and not column_event -> 'columns' ? (c ->> 'name');
            branches := branches || format(' when %s then %L',
                case when others is null then 'true' else format('not (%s)', others) end, column_event ->> 'event');
        end if;
    end loop;
    return case when branches = '' then event_sql else format('case%s else %s end', branches, event_sql) end;
end
$function$;
comment on function audit.row_event_sql(jsonb, text, text[]) is
    'The SQL of a changed row''s event: soft deletion first, then column events, then the kind''s.';

create function audit.row_sql(pieces jsonb, operation text, changed_columns text[])
    returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    side constant jsonb := case when operation = 'DELETE' then pieces -> 'old' else pieces -> 'new' end;
    columns constant jsonb := pieces -> 'columns';
    changed jsonb;
    row_changed text;
    before_sql text := 'null::jsonb';
    after_sql text := 'null::jsonb';
    source text;
begin
    if operation = 'INSERT' then
        after_sql := audit.object_sql(columns, 'after');
        source := 'audit_new_rows audit_n';
    elsif operation = 'DELETE' then
        before_sql := audit.object_sql(columns, 'before');
        source := 'audit_old_rows audit_o';
    else
        select jsonb_agg(c order by p), string_agg(c ->> 'changed', ' or ') into changed, row_changed
        from jsonb_array_elements(columns) with ordinality e(c, p)
        where c ->> 'name' = any(changed_columns);
        if not (pieces -> 'has_key')::boolean then
            changed := columns;
        end if;
        before_sql := audit.object_sql(changed, 'before');
        after_sql := audit.object_sql(changed, 'after');
        if (pieces -> 'has_key')::boolean and jsonb_array_length(changed) > 1 then
            -- Mostly every row changes the same columns; the rest is put together column by column.
            select format('case when %s then %s else %s end', string_agg(format('(%s)', c ->> 'changed'), ' and '), before_sql,
                          string_agg(format('case when %s then jsonb_build_object(%L, %s) else ''{}''::jsonb end',
                                            c ->> 'changed', c ->> 'name', c ->> 'before'), ' || ')),
                   format('case when %s then %s else %s end', string_agg(format('(%s)', c ->> 'changed'), ' and '), after_sql,
                          string_agg(format('case when %s then jsonb_build_object(%L, %s) else ''{}''::jsonb end',
                                            c ->> 'changed', c ->> 'name', c ->> 'after'), ' || '))
            into before_sql, after_sql
            from jsonb_array_elements(changed) c;
        end if;
        source := audit.pair_sql() || ' where ' || row_changed;
    end if;

    return format(
        'select %s collate "C" as workspace_id, %s collate "C" as event, %s collate "C" as resource_type, '
        '%s collate "C" as resource_id, %s as resource_name, nullif((%s) collate "C", (%s) collate "C") as row_key, '
        '%s as subject_id, %s as subject_name, %s as before, %s as after from %s',
        side ->> 'workspace', audit.row_event_sql(pieces, operation, changed_columns), side ->> 'resource_type',
        side ->> 'resource_id', side ->> 'resource_name',
        case when operation = 'INSERT' then pieces -> 'new' ->> 'row_key' else pieces -> 'old' ->> 'row_key' end,
        side ->> 'resource_id',
        side ->> 'subject_id', side ->> 'subject_name', before_sql, after_sql, source);
end
$function$;
comment on function audit.row_sql(jsonb, text, text[]) is
    'The SELECT that turns the transition tables of an operation into one row for each row that really changed. changed_columns: those that an UPDATE changed in any row.';

create function audit.pair_sql()
    returns text
    language sql
    immutable
    parallel safe
    -- Both transition tables list a statement's rows in one order; a key may have changed, so it cannot pair them.
return '(select row_number() over () as "audit position of a row in its transition table", r.* from audit_old_rows r) audit_o '
    'join (select row_number() over () as "audit position of a row in its transition table", r.* from audit_new_rows r) audit_n '
    'on audit_o."audit position of a row in its transition table" = audit_n."audit position of a row in its transition table"';
comment on function audit.pair_sql() is 'The FROM items that pair the old and new rows of an UPDATE by their position.';

create function audit.changed_columns_sql(pieces jsonb)
    returns text
    language sql
    stable
begin atomic
    select coalesce(format('select array_remove(array[%s]::text[], null) from %s',
                           string_agg(format('case when bool_or(%s) then %L end', c ->> 'changed', c ->> 'name'), ', '),
                           audit.pair_sql()), 'select ''{}''::text[]')
    from jsonb_array_elements(pieces -> 'columns') c;
end;
comment on function audit.changed_columns_sql(jsonb) is
    'The SELECT of the columns that an UPDATE really changed in any row.';

create function audit.bulk_sql(pieces jsonb, operation text, changed_columns text[])
    returns text
    language sql
    stable
begin atomic
    -- $1 created_at, $2 actor, $3 table_schema, $4 table_name
    select format($sql$
with audit_row as materialized (
    %1$s
), audit_group as materialized (
    select audit.new_entry_id($1) as id, r.workspace_id, r.event, count(*) as row_count,
           case when min(r.resource_type) = max(r.resource_type) then min(r.resource_type) else %2$L end as resource_type,
           count(r.resource_id) = count(*) and min(r.resource_id) = max(r.resource_id) as is_one_resource,
           min(r.resource_id) as resource_id, min(r.resource_name) as resource_name,
           case when count(r.subject_id) = count(*) and min(r.subject_id) = max(r.subject_id) then min(r.subject_id) end as subject_id,
           min(r.subject_name) as subject_name
    from audit_row r
    group by r.workspace_id, r.event
), audit_stored as (
    insert into audit.change (entry_id, created_at, workspace_id, resource_id, resource_name, row_key, before, after)
    select g.id, $1, r.workspace_id, r.resource_id, r.resource_name, r.row_key, r.before, r.after
    from audit_row r
    join audit_group g
        on g.event = r.event and coalesce(g.workspace_id, '') = coalesce(r.workspace_id, '')
    where g.row_count > 1
)
insert into audit.entry (
    id, created_at, workspace_id, event, operation, table_schema, table_name, resource_type, resource_id, resource_name,
    row_key, actor_type, actor_id, actor_name, row_count, before, after, request_id, context, database_user, transaction_id)
select g.id, $1, g.workspace_id, g.event, %3$L, $3, $4, g.resource_type,
       case when g.is_one_resource then g.resource_id end, case when g.is_one_resource then g.resource_name end,
       r.row_key, ($2).actor_type, ($2).actor_id, ($2).actor_name, g.row_count, r.before, r.after, ($2).request_id,
       case when g.subject_id is null then ($2).context
            else coalesce(($2).context, '{}') || jsonb_build_object('subject', jsonb_build_object('id', g.subject_id, 'name', g.subject_name)) end,
       session_user, pg_current_xact_id()
from audit_group g
left join audit_row r
    on g.row_count = 1 and r.event = g.event and coalesce(r.workspace_id, '') = coalesce(g.workspace_id, '')
$sql$, audit.row_sql(pieces, operation, changed_columns), pieces -> 'new' ->> 'default_type', operation);
end;
comment on function audit.bulk_sql(jsonb, text, text[]) is
    'The statement that writes what a statement of any number of rows changed: an entry for each workspace and event, and the rows of those that hold several.';
