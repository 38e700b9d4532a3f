-- fk_column.column: a name or workspace that stands in another table, whether capture may read it there, and the functions that
-- read it. Planning a query on a table runs functions of its owner (those of expression indexes, for one), and whether it would
-- cannot be known beforehand: a snapshot may be older than an index. So a lookup runs as its parent's owner, who gains nothing.

set search_path = pg_catalog, pg_temp;

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
    problem text,
    mend text
);
comment on type audit.lookup is
    'Where fk_column.column leads: the parent table, its key, the wanted column, the key''s equality operator; or the problem with it and the statement that mends it, where one does.';

create function audit.lookups_run_as_owner()
    returns boolean
    language sql
    stable
begin atomic
    -- By name: that function is made below.
    select exists (
        select from pg_catalog.pg_proc p
        join pg_catalog.pg_roles r on r.oid = p.proowner
        where p.pronamespace = 'audit'::regnamespace and p.proname = 'keep_lookups' and r.rolsuper);
end;
comment on function audit.lookups_run_as_owner() is
    'Whether lookups run as the owners of the tables they read, which takes a superuser who installed the log; else as the capturing role.';

create function audit.compares_without_casts(key_type oid, fk_type oid, key_operator oid)
    returns boolean
    language sql
    stable
begin atomic
    -- Two of the server's own types (a domain is what it is based on), the very types that the operator was made for, or one
    -- type for which the server's own operator is polymorphic. Elsewhere the parser could find somebody's implicit cast, or an
    -- operator that fits a domain better.
    select o.oprleft = key_type and o.oprright = fk_type
        or n.nspname = 'pg_catalog'
           and (audit.is_core_type(audit.base_type(key_type)) and audit.is_core_type(audit.base_type(fk_type))
                or key_type = fk_type and (select typtype = 'p' from pg_catalog.pg_type where oid = o.oprright))
    from pg_catalog.pg_operator o
    join pg_catalog.pg_namespace n on n.oid = o.oprnamespace
    where o.oid = key_operator;
end;
comment on function audit.compares_without_casts(oid, oid, oid) is
    'Whether the operator compares a key and a foreign key''s column of these types without a cast or operator that the owner of a type made.';

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
    owner name;
begin
    select c.confrelid, key_column.attname, value_column.attname,
           format('operator(%I.%s)', n.nspname, o.oprname),
           case when not has_schema_privilege('audit_capture', n.oid, 'usage')
                then format('audit_capture may not use schema %I of the key''s operator', n.nspname)
                when not audit.compares_without_casts(key_column.atttypid, a.atttypid, o.oid)
                then format('column %I and the key it refers to are compared by way of a cast or operator that capture must not run', fk_column)
                when a.attcollation <> key_column.attcollation
                then format('column %I and the key it refers to have different collations', fk_column) end,
           case when not has_schema_privilege('audit_capture', n.oid, 'usage')
                then format('grant usage on schema %I to audit_capture', n.nspname) end
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
    found_lookup.mend := null;
    parent_name := found_lookup.parent::regclass::text;
    select r.rolname into owner from pg_class c join pg_roles r on r.oid = c.relowner where c.oid = relation;
    if found_lookup.parent_column is null then
        found_lookup.problem := format('table %s has no column %I to look up', parent_name, wanted);
    elsif not has_schema_privilege('audit_capture', (select relnamespace from pg_class where oid = found_lookup.parent), 'usage') then
        found_lookup.problem := format('audit_capture may not use the schema of %s', parent_name);
        found_lookup.mend := format('grant usage on schema %s to audit_capture',
                                    (select relnamespace::regnamespace from pg_class where oid = found_lookup.parent));
    elsif not (has_column_privilege('audit_capture', found_lookup.parent, found_lookup.parent_key, 'select')
               and has_column_privilege('audit_capture', found_lookup.parent, found_lookup.parent_column, 'select')) then
        found_lookup.problem := format('audit_capture may not read %s', parent_name);
        found_lookup.mend := format('grant select (%I, %I) on %s to audit_capture',
                                    found_lookup.parent_key, found_lookup.parent_column, parent_name);
    elsif not (has_column_privilege(owner, found_lookup.parent, found_lookup.parent_key, 'select')
               and has_column_privilege(owner, found_lookup.parent, found_lookup.parent_column, 'select')) then
        -- The log would tell him what the parent's owner does not.
        found_lookup.problem := format('owner %I may not read %s', owner, parent_name);
        found_lookup.mend := format('grant select (%I, %I) on %s to %I',
                                    found_lookup.parent_key, found_lookup.parent_column, parent_name, owner);
    elsif (select relrowsecurity from pg_class where oid = found_lookup.parent) then
        found_lookup.problem := format('table %s has row-level security', parent_name);
    elsif not audit.lookups_run_as_owner() and audit.runs_code_when_read(found_lookup.parent) then
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

create function audit.lookup_body(relation oid, path text)
    returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    target constant audit.lookup := audit.find_lookup(relation, path);
begin
    return (
        select format('begin return (select %s from %s %I.%I audit_p where audit_p.%I %s $1); end',
                      audit.text_sql(format('audit_p.%I', a.attname), a.atttypid),
                      case c.relkind when 'p' then '' else 'only' end, n.nspname, c.relname, target.parent_key, target.key_operator)
        from pg_class c
        join pg_namespace n on n.oid = c.relnamespace
        join pg_attribute a on a.attrelid = c.oid and a.attname = target.parent_column
        where c.oid = target.parent and target.problem is null);
end
$function$;
comment on function audit.lookup_body(oid, text) is
    'The body of the function that looks fk_column.column up, given the foreign key''s value. Null when it cannot be looked up.';

create function audit.lookup_name(tracked_id bigint, path text)
    returns text
    language sql
    immutable
    parallel safe
return format('lookup_%s_%s', tracked_id, left(md5(path), 8));
comment on function audit.lookup_name(bigint, text) is 'The name of the function that looks a path of a tracked table up.';

create function audit.keep_lookups(tracked_id bigint, relation oid, paths text[])
    returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
-- As the superuser who installed the log: nobody else can give a function to a table's owner. So it calls what is his alone, and
-- writes no other text than lookup_body's.
declare
    path text;
    function_name text;
    body text;
    key_type oid;
    parent_owner oid;
    outdated regprocedure;
begin
    if not audit.lookups_run_as_owner() then
        return;
    end if;
    for outdated in
        select p.oid
        from pg_proc p
        where p.pronamespace = 'audit'::regnamespace and p.proname ~ format('^lookup_%s_', tracked_id)
          and not exists (
              select from unnest(paths) w(path)
              join pg_attribute a on a.attrelid = relation and a.attname = split_part(w.path, '.', 1)
              where p.proname = audit.lookup_name(tracked_id, w.path) and p.proargtypes[0] = a.atttypid)
    loop
        execute format('drop function %s', outdated);
    end loop;
    foreach path in array paths loop
        function_name := audit.lookup_name(tracked_id, path);
        body := audit.lookup_body(relation, path);
        select a.atttypid into key_type
        from pg_attribute a where a.attrelid = relation and a.attname = split_part(path, '.', 1);
        select c.relowner into parent_owner from pg_class c where c.oid = (audit.find_lookup(relation, path)).parent;
        continue when body is null or exists (
            select from pg_proc p
            where p.pronamespace = 'audit'::regnamespace and p.proname = function_name
              and p.prosrc = body and p.proowner = parent_owner and has_function_privilege('audit_capture', p.oid, 'execute'));
        execute format('create or replace function audit.%I(audit_key %s) returns text language plpgsql stable security definer set search_path = pg_catalog, pg_temp as %L',
                       function_name, key_type::regtype, body);
        execute format('alter function audit.%I owner to %s', function_name, parent_owner::regrole);
        execute format('revoke all on function audit.%I from public, %s', function_name, parent_owner::regrole);
        execute format('grant execute on function audit.%I to audit_capture', function_name);
        execute format('comment on function audit.%I is %L', function_name,
                       format('Looks up %s for tracked table number %s, as the owner of the table that it reads.', path, tracked_id));
    end loop;
end
$function$;
comment on function audit.keep_lookups(bigint, oid, text[]) is
    'Makes the functions that look these paths of a tracked table up, each owned by the owner of the table it reads, and drops its other ones.';

create function audit.column_or_lookup_sql(alias text, tracked_id bigint, relation oid, columns audit.row_column[],
                                           follows_lookups boolean, path text, length text)
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
    select c.type_oid into type_oid from unnest(columns) c where c.name = path;
    if found then
        value := audit.text_sql(format('%s.%I', alias, path), type_oid);
        return case when (select typlen from pg_type where oid = type_oid) > 0 then value
                    when length = 'short' then format('left(%s, 500)', value)
                    else audit.bounded_sql(value) end;
    end if;
    if path not like '%.%' or not follows_lookups then
        return 'null::text';
    end if;
    target := audit.find_lookup(relation, path);
    -- Checked when tracking was turned on; what has become unreadable since must not fail a write, audit.check() tells.
    if target.problem is not null then
        return 'null::text';
    end if;
    select atttypid into type_oid
    from pg_attribute where attrelid = target.parent and attname = target.parent_column;
    if audit.lookups_run_as_owner() then
        value := format('audit.%I(%s.%I)', audit.lookup_name(tracked_id, path), alias, split_part(path, '.', 1));
        return case
            -- One that reads what has become another table since must not fail a write; the next compilation makes it anew.
            when not exists (select from pg_proc p
                             where p.pronamespace = 'audit'::regnamespace and p.proname = audit.lookup_name(tracked_id, path)
                               and p.prosrc = audit.lookup_body(relation, path)
                               -- What a new owner's table runs when it is read is not run as its former owner.
                               and p.proowner = (select relowner from pg_class where oid = target.parent)
                               -- For another type the parser could find somebody's implicit cast.
                               and p.proargtypes[0] = (select c.type_oid from unnest(columns) c where c.name = split_part(path, '.', 1))
                               and has_function_privilege('audit_capture', p.oid, 'execute')) then 'null::text'
            when length = 'short' then format('left(%s, 500)', value)
            else audit.bounded_sql(value) end;
    end if;
    if not exists (select from unnest(columns) c
                   join pg_attribute a on a.attrelid = relation and a.attname = c.name and a.atttypid = c.type_oid
                   where c.name = split_part(path, '.', 1)) then
        return 'null::text';
    end if;
    value := audit.text_sql(format('audit_p.%I', target.parent_column), type_oid);
    return format('(select %s from %s %s audit_p where audit_p.%I %s %s.%I)',
                  case when length = 'short' then format('left(%s, 500)', value) else audit.bounded_sql(value) end,
                  case when (select relkind from pg_class where oid = target.parent) = 'p' then '' else 'only' end,
                  target.parent::regclass,
                  target.parent_key, target.key_operator, alias, split_part(path, '.', 1));
end
$function$;
comment on function audit.column_or_lookup_sql(text, bigint, oid, audit.row_column[], boolean, text, text) is
    'The SQL for a column''s text, or for fk_column.column looked up in the parent, of limited length. Null text where neither can be had.';

create function audit.shape_sql(relation text)
    returns text
    language sql
    immutable
    parallel safe
    -- In full, and each name with its length: whoever could make another table look the same would have code that was compiled
    -- for other types run over his own. In the order of the catalogue's index, which spares a sort.
return format(
    '(select string_agg(concat(s.atttypid, '' '', s.attcollation, '' '', length(s.attname), '' '', s.attname), '','') '
    'from (select atttypid, attcollation, attname from pg_catalog.pg_attribute '
    'where attrelid = %s and attnum > 0 and not attisdropped order by attnum) s)', relation);
comment on function audit.shape_sql(text) is
    'The SQL of a table''s fingerprint: the names, types and collations of its columns in their order. Null for a table without columns.';

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

create function audit.row_shape_sql(rows text)
    returns text
    language sql
    immutable
    parallel safe
    -- Of a row of nulls, which calls no cast of any type. The inner select makes it a row: an outer join's whole row would be null.
    -- Its name is none that a column can have by chance: a column would come first.
return format('(select row_to_json("audit row of a transition table")::text from (select r.* from (select) d left join %s r on false) '
              '"audit row of a transition table")', rows);
comment on function audit.row_shape_sql(text) is
    'The SQL of the names of a transition table''s columns in their order, as keys of a JSON object. Unlike the catalogue, which a transaction sees as old as its snapshot, rows are what they are now.';

create function audit.row_types_sql(rows text, names text[])
    returns text
    language sql
    immutable
    parallel safe
return format('(select array[%s]::oid[] from (select) d left join %s r on false)',
              (select string_agg(format('pg_typeof(r.%I)', n.name), ', ' order by n.position)
               from unnest(names) with ordinality n(name, position)), rows);
comment on function audit.row_types_sql(text, text[]) is 'The SQL of the types of these columns of a transition table.';

create function audit.row_types(relation oid)
    returns oid[]
    language sql
    stable
begin atomic
    select array(select a.atttypid from pg_catalog.pg_attribute a where a.attrelid = relation and a.attnum > 0 and not a.attisdropped order by a.attnum);
end;
comment on function audit.row_types(oid) is 'The types of all columns of a table in their order, which its compiled function compares with those of its rows where the catalogue may be older than they are.';
