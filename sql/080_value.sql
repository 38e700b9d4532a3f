-- What a column's value becomes: the jsonb of before and after, the text of keys and names, and when it counts as changed.
-- No cast of the application is run: its owner would run with it, as the capturing role.

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
           and c.opcintype = case when t.oid = 'varchar'::regtype then 'text'::regtype::oid else t.oid end
        join pg_catalog.pg_amproc p
            on p.amprocfamily = c.opcfamily and p.amproclefttype = c.opcintype
           and p.amprocrighttype = c.opcintype and p.amprocnum = 4
        -- Implicit casts that somebody gave a type of the application could make its = ambiguous, or become part of it.
        where t.oid = type_oid and audit.is_core_type(t.oid)
          -- Its class says equalimage, but char without a length keeps the trailing blanks that its = does not see.
          and t.oid <> 'bpchar'::regtype
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
        -- The text is made only where it could be too long: no compression shrinks a value 256-fold, but a number can have any
        -- number of zeros that are not stored.
        return format('case when %2$soctet_length(%3$s) > %4$s then %5$s else to_jsonb(%1$s) end',
                      value,
                      case when coalesce((select nullif(typelem, 0) from pg_type where oid = base and typcategory = 'A'), base)
                                in ('numeric'::regtype, 'jsonb'::regtype, 'numrange'::regtype, 'nummultirange'::regtype) then ''
                           else format('pg_column_size(%s) > %s and ', value, max_bytes / 256) end,
                      as_text, max_bytes,
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

create type audit.row_column as (
    name text,
    type_oid oid,
    collation_oid oid
);
comment on type audit.row_column is
    'A column as a table''s rows have it. Its collation is null when it is not known: then only identity tells what changed.';

create function audit.table_columns(relation oid)
    returns audit.row_column[]
    language sql
    stable
begin atomic
    select coalesce(array_agg(row(a.attname, a.atttypid, a.attcollation)::audit.row_column order by a.attnum), '{}')
    from pg_catalog.pg_attribute a
    where a.attrelid = relation and a.attnum > 0 and not a.attisdropped and a.attgenerated <> 'v';
end;
comment on function audit.table_columns(oid) is 'The columns of a table that its rows hold, as the catalogue says: all but virtual ones.';

create function audit.key_sql(alias text, columns audit.row_column[], key_columns text[])
    returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    parts text[];
    is_short boolean;
begin
    if key_columns is null or cardinality(key_columns) = 0 then
        return 'null::text';
    end if;
    select array_agg(
        case when cardinality(key_columns) > 1 and audit.is_core_type(audit.base_type(c.type_oid)) then format('%s.%I', alias, c.name)
             -- Written as the column's value is, so that the one can be told from the other.
             when audit.base_type(c.type_oid) in ('timestamp'::regtype, 'timestamptz'::regtype, 'real'::regtype, 'double precision'::regtype)
             then format('(to_jsonb(%s.%I) #>> ''{}'')', alias, c.name)
             else audit.text_sql(format('%s.%I', alias, c.name), c.type_oid) end
        order by k.position),
        bool_and(t.typlen > 0)
    into parts, is_short
    from unnest(key_columns) with ordinality k(name, position)
    join unnest(columns) c on c.name = k.name
    left join pg_type t on t.oid = c.type_oid;
    if parts is null or cardinality(parts) < cardinality(key_columns) then
        return 'null::text';
    end if;
    if is_short and cardinality(key_columns) = 1 then
        return parts[1];
    end if;
    return audit.bounded_sql(case when cardinality(key_columns) = 1 then parts[1]
                                  else format('jsonb_build_array(%s)::text', array_to_string(parts, ', ')) end);
end
$function$;
comment on function audit.key_sql(text, audit.row_column[], text[]) is
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
