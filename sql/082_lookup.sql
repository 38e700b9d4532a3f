-- fk_column.column: a name or workspace that stands in another table, and whether capture may read it there.

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
                  target.parent::regclass,
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
    -- A digest: whoever could make a table to a given sum would have code that was compiled for other types run over his own.
    -- Zero bytes, which no name holds, keep names apart.
return format(
    '(select coalesce(encode(sha256(string_agg(int8send((atttypid::bigint << 32) + attcollation::bigint) || textsend(attname::text), int2send(0::smallint) order by attnum)), ''hex''), '''') '
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
