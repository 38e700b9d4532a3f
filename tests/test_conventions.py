"""What holds for every object of the log, asked of the catalogue: a new object is judged without a test of its own."""

import pytest

from tests.trail import Connection


@pytest.fixture
def tracked(db: Connection) -> Connection:
    """A database in which a partitioned table and one with a lookup are tracked: all that is compiled is there too."""
    db.execute("create table document (id integer, workspace_id text) partition by range (id)")
    db.execute("create table document_1 partition of document for values from (0) to (10)")
    db.execute("select audit.enable_tracking('document', resource_id_columns => '{id}')")
    db.execute("create table document_2 partition of document for values from (10) to (20)")
    db.execute("create table folder (id integer primary key, title text); grant select on folder to audit_capture")
    db.execute("create table note (id integer primary key, workspace_id text, folder integer references folder)")
    db.execute("select audit.enable_tracking('note', resource_name_column => 'folder.title')")
    return db


@pytest.mark.parametrize(
    ("sentence", "query"),
    [
        (
            "every schema, table, column, view, sequence, function, type and event trigger has a comment",
            (
                "select 'audit' where obj_description('audit'::regnamespace) is null"
                " union all select c.oid::regclass::text from pg_class c where c.relnamespace = 'audit'::regnamespace"
                "   and c.relkind in ('r', 'p', 'v', 'S') and obj_description(c.oid, 'pg_class') is null"
                "   and not exists (select from pg_depend d where d.objid = c.oid and d.deptype"
                " = 'i' and c.relkind = 'S')"
                " union all select c.relname || '.' || a.attname from pg_class c join"
                " pg_attribute a on a.attrelid = c.oid"
                "   where c.relnamespace = 'audit'::regnamespace and c.relkind in ('r', 'p', 'v') and a.attnum > 0"
                "   and not c.relispartition and not a.attisdropped and col_description(c.oid, a.attnum) is null"
                " union all select p.oid::regprocedure::text from pg_proc p where p.pronamespace"
                " = 'audit'::regnamespace"
                "   and obj_description(p.oid, 'pg_proc') is null"
                " union all select t.typname from pg_type t left join pg_class c on c.oid = t.typrelid"
                "   where t.typnamespace = 'audit'::regnamespace and t.typtype = 'c' and c.relkind = 'c'"
                "   and obj_description(t.oid, 'pg_type') is null"
                " union all select evtname from pg_event_trigger e where evtname like 'audit%'"
                "   and obj_description(e.oid, 'pg_event_trigger') is null"
            ),
        ),
        (
            "every function pins its search_path, or is bound to its functions when it is made",
            (
                "select oid::regprocedure::text from pg_proc where pronamespace = 'audit'::regnamespace"
                " and prosqlbody is null and not coalesce(proconfig, '{}') @> '{\"search_path=pg_catalog, pg_temp\"}'"
            ),
        ),
        (
            "every security definer function pins its search_path",
            (
                "select oid::regprocedure::text from pg_proc where pronamespace = 'audit'::regnamespace"
                " and prosecdef and not coalesce(proconfig, '{}') @> '{\"search_path=pg_catalog, pg_temp\"}'"
            ),
        ),
        (
            "no function is bound to another one outside pg_catalog and audit",
            (
                "select d.objid::regprocedure::text from pg_depend d join pg_proc p on p.oid = d.refobjid"
                " where d.classid = 'pg_proc'::regclass and d.refclassid = 'pg_proc'::regclass"
                " and d.objid in (select oid from pg_proc where pronamespace = 'audit'::regnamespace)"
                " and p.pronamespace not in ('audit'::regnamespace, 'pg_catalog'::regnamespace)"
            ),
        ),
        (
            "PUBLIC has nothing",
            (
                "select p.oid::regprocedure::text from pg_proc p"
                "   cross join aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a"
                "   where p.pronamespace = 'audit'::regnamespace and a.grantee = 0"
                " union all select c.relname from pg_class c cross join aclexplode(c.relacl) a"
                "   where c.relnamespace = 'audit'::regnamespace and a.grantee = 0"
                " union all select n.nspname from pg_namespace n cross join aclexplode(n.nspacl) a"
                "   where n.nspname = 'audit' and a.grantee = 0"
            ),
        ),
        (
            "everything belongs to audit_owner, capture functions to audit_capture, guards and lookups to neither",
            (
                "select c.oid::regclass::text from pg_class c where c.relnamespace = 'audit'::regnamespace"
                "   and c.relowner <> 'audit_owner'::regrole"
                " union all select p.oid::regprocedure::text from pg_proc p where p.pronamespace"
                " = 'audit'::regnamespace"
                "   and p.proowner <> case when p.proname ~ '^capture_[0-9]+$' then 'audit_capture'::regrole"
                "     when p.proname ~ '^(guard_|keep_lookups|find_lookup|lookup_|lookups_run_as_owner"
                "|compares_without_casts|text_sql|runs_code_when_read|base_type|is_core_type|refuse_alteration"
                "|admit_to_schema|follow_identity|create_event_triggers|entry_words)' then 'postgres'::regrole"
                "     else 'audit_owner'::regrole end"
            ),
        ),
        (
            "entries and changes have row-level security, enabled and not forced",
            (
                "select relname from pg_class where oid in ('audit.entry'::regclass, 'audit.change'::regclass)"
                " and (not relrowsecurity or relforcerowsecurity)"
            ),
        ),
        (
            "reading views run with the reader's rights and are no security barriers",
            (
                "select relname from pg_class where relnamespace = 'audit'::regnamespace and relkind = 'v'"
                " and (not reloptions @> '{security_invoker=true}' or reloptions::text like '%barrier%')"
            ),
        ),
        (
            "no partition is granted to the reader",
            (
                "select partition_name from audit.day_partition where"
                " has_table_privilege('audit_reader', partition_oid, 'select')"
            ),
        ),
        (
            "no column has a type that pg_upgrade refuses",
            (
                "select c.relname from pg_class c join pg_attribute a on a.attrelid = c.oid"
                " where c.relnamespace = 'audit'::regnamespace and c.relkind in ('r', 'p') and a.attnum > 0"
                " and a.atttypid in ('regprocedure'::regtype, 'regproc'::regtype, 'regnamespace'::regtype,"
                " 'regoper'::regtype, 'regoperator'::regtype, 'regconfig'::regtype, 'regdictionary'::regtype)"
            ),
        ),
        (
            "every tracked table and leaf has its triggers, ENABLE ALWAYS",
            (
                "select c.relname from pg_class c where c.relname in ('document', 'document_1', 'document_2')"
                " and (select array_agg(t.tgname::text || t.tgenabled::text order by t.tgname)"
                " from pg_trigger t where t.tgrelid = c.oid)"
                " is distinct from '{audit_deleteA,audit_insertA,audit_mergeA,audit_truncateA,audit_updateA}'"
            ),
        ),
        (
            "no foreign key, unique constraint or index that is not needed slows an entry's insertion",
            (
                "select indrelid::regclass::text, pg_get_indexdef(indexrelid) from pg_index i"
                " join pg_class c on c.oid = i.indrelid where c.relnamespace = 'audit'::regnamespace"
                " and c.relname ~ '^(entry|change)(_|$)' and not (c.relispartition"
                " and pg_get_indexdef(indexrelid) ~ ' USING (btree [(]workspace_id, created_at, id[)]"
                "|btree [(]resource_id, created_at[)] WHERE [(]resource_id IS NOT NULL[)]|brin [(]entry_id[)] WITH"
                "|brin [(]resource_id text_bloom_ops[)] WITH)')"
                " and not (c.relname ~ '_beyond$' and pg_get_indexdef(indexrelid) ~ ' USING btree [(]created_at[)]$')"
            ),
        ),
    ],
)
def test_a_convention_holds_for_every_object(tracked: Connection, sentence: str, query: str) -> None:
    assert tracked.execute(query.encode()).fetchall() == [], sentence


def test_the_check_finds_nothing_wrong_with_a_healthy_installation(tracked: Connection) -> None:
    tracked.execute("create role table_owner_without_login nologin")
    try:
        tracked.execute("alter table document owner to table_owner_without_login")
        tracked.execute("alter table document_1 owner to table_owner_without_login")
        tracked.execute("alter table document_2 owner to table_owner_without_login")
        tracked.execute("alter table note owner to table_owner_without_login; grant select on folder to public")
        assert tracked.execute("select * from audit.check()").fetchall() == []
    finally:
        tracked.execute("drop owned by table_owner_without_login; drop role table_owner_without_login")
