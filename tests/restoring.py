"""A database with everything that a dump has to bring, and what is compared of it on both sides.

It must not know what a restore is expected to leave: that is said by the tests, in literals.
"""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import psycopg

from daybook.postgres import Cluster, Server
from tests.conftest import REPOSITORY
from tests.trail import Connection

# Fast and forgetful: these clusters are thrown away.
SETTINGS: dict[str, str | int] = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "timezone": "UTC",
}

SCHEMA = """
create extension hstore;
grant create on schema public to app_owner;
set role app_owner;
create type mood as enum ('calm', 'cross');
create table member (id integer primary key, name text);
create table document (
    id integer primary key, gone text, workspace_id text, title text, secret text, token text, mood mood, tags hstore);
-- A restored table has no holes: the columns behind it get other numbers.
alter table document drop column gone;
create table measurement (id integer primary key, workspace_id text, value numeric) partition by range (id);
create table measurement_low partition of measurement for values from (0) to (100);
create table measurement_high partition of measurement for values from (100) to (200);
create table document_permission (
    id integer primary key, document_id integer references document, member_id integer references member, level text);
create table diary (id integer primary key, workspace_id text, text text);
alter table diary enable row level security;
create policy own_diary on diary using (workspace_id = 'acme');
grant select (id, name) on member to audit_capture;
grant select (id, title, workspace_id) on document to audit_capture;
select audit.enable_tracking(
    'document', resource_name_column => 'title', excluded_columns => '{secret}', redacted_columns => '{token}',
    events => '{"DELETE": "document_shredded"}', column_events => '{"mood_changed": ["mood"]}');
select audit.enable_tracking('measurement', max_value_bytes => 1000);
select audit.enable_tracking('diary', missing_actor => 'refuse');
select audit.enable_tracking(
    'document_permission', 'permission', resource_id_columns => '{document_id}',
    resource_name_column => 'document_id.title', subject_column => 'member_id.name',
    workspace_column => 'document_id.workspace_id');
reset role;
"""

DATA = """
set role app_owner;
begin;
select audit.set_actor('42', 'Ada Lovelace'), audit.set_context('r-1', metadata => '{"ticket": 7}');
insert into member values (1, 'Grace'), (2, 'Alan');
insert into document values
    (1, 'acme', 'Revenue', 's3cret', 't0ken', 'calm', 'a=>1'), (2, 'globex', 'Costs', 's3cret', 't0ken', 'cross', null);
insert into document_permission values (1, 1, 1, 'edit');
insert into measurement values (1, 'acme', 1.0), (2, 'acme', 1.0), (101, 'acme', 2.50);
insert into diary values (1, 'acme', 'dear diary');
commit;
update document set mood = 'cross', tags = 'a=>2' where id = 1;
reset role;
-- A log of several days: as the superuser of a cluster that is thrown away, with the guards off.
select audit.create_day((now() at time zone 'UTC')::date - 5);
set session_replication_role = replica;
with moved as (
    update audit.entry
    set created_at = created_at - interval '5 days', id = audit.new_entry_id(created_at - interval '5 days')
    where table_name = 'measurement'
    returning id, created_at)
update audit.change set entry_id = moved.id, created_at = moved.created_at from moved;
reset session_replication_role;
update audit.upkeep set retention_days = 365;
select audit.create_key('abcdefgh', sha256('a'), 'acme', 'Ada''s key', 'admin', null);
select audit.create_key('bcdefghi', sha256('b'), 'acme', 'Old key', 'auditor', null), audit.revoke_key('bcdefghi');
select audit.open_session('abcdefgh', sha256('a'), 'cookie12', sha256('c'));
insert into audit.reading (workspace_id, reader_id, last_used_at) values ('acme', 'abcdefgh', '2026-03-14 12:00Z');
"""

ACL = """(
    select coalesce(array_agg(format('%%s=%%s/%%s', a.grantee::regrole, a.privilege_type, a.grantor::regrole) order by 1), '{}')
    from aclexplode(coalesce(%s, acldefault(%s, %s))) a(grantor, grantee, privilege_type, is_grantable)
    -- Newer servers give owners a right more.
    where a.privilege_type <> 'MAINTAIN')"""

# What has to be the same on both sides, a query each: rows as text, in an order of their own.
PORTRAIT = {
    "entries": "select e.tableoid::regclass, e from audit.entry e order by id",
    "changes": "select c.tableoid::regclass, c from audit.change c order by c::text",
    "settings": "select t from audit.tracked_table t order by id",
    "upkeep": "select u from audit.upkeep u",
    "keys": "select k from audit.api_key k order by prefix",
    "reading": "select r from audit.reading r order by reader_id",
    "sessions": "select s from audit.page_session s order by prefix",
    "version": "select v from audit.schema_version v",
    "sequences": (
        "select 'floor', last_value, is_called from audit.floor"
        " union all select 'tracked_table_id_seq', last_value, is_called from audit.tracked_table_id_seq"
    ),
    "days": "select log_table, partition_name, lower_bound, upper_bound, is_beyond from audit.day_partition order by 1, 2",
    "tables": (
        "select c.oid::regclass, c.relkind, c.relowner::regrole, c.relrowsecurity, c.relforcerowsecurity, c.reloptions,"
        " obj_description(c.oid), "
        + ACL
        % ("c.relacl", """case c.relkind when 'S' then 's' else 'r' end::"char\"""", "c.relowner")
        + " from pg_class c"
        " where c.relnamespace in ('audit'::regnamespace, 'public'::regnamespace) and c.relkind in ('r', 'p', 'v', 'S')"
        " order by 1::text"
    ),
    "columns": (
        "select a.attrelid::regclass, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,"
        " a.attacl::text, col_description(a.attrelid, a.attnum) from pg_attribute a join pg_class c on c.oid = a.attrelid"
        " where c.relnamespace in ('audit'::regnamespace, 'public'::regnamespace) and c.relkind in ('r', 'p', 'v')"
        " and a.attnum > 0 and not a.attisdropped order by 1::text, 2"
    ),
    "indexes": (
        "select i.indexrelid::regclass, i.indisvalid, pg_get_indexdef(i.indexrelid) from pg_index i"
        " join pg_class c on c.oid = i.indrelid"
        " where c.relnamespace in ('audit'::regnamespace, 'public'::regnamespace) order by 1::text"
    ),
    "constraints": (
        "select conrelid::regclass, conname, pg_get_constraintdef(oid) from pg_constraint"
        " where connamespace in ('audit'::regnamespace, 'public'::regnamespace) and contype <> 'n' order by 1::text, 2"
    ),
    "functions": (
        "select p.oid::regprocedure, p.proowner::regrole, p.prosecdef, p.proconfig, p.provolatile, p.proparallel,"
        " md5(p.prosrc), obj_description(p.oid), " + ACL % ("p.proacl", "'f'", "p.proowner") + " from pg_proc p"
        " where p.pronamespace = 'audit'::regnamespace order by 1::text"
    ),
    "triggers": (
        "select t.tgrelid::regclass, t.tgname, t.tgenabled, t.tgfoid::regproc, t.tgtype, t.tgoldtable, t.tgnewtable"
        " from pg_trigger t where not t.tgisinternal order by 1::text, 2"
    ),
    "event triggers": (
        "select evtname, evtevent, evtowner::regrole, evtenabled, evttags, evtfoid::regproc, obj_description(oid)"
        " from pg_event_trigger order by 1"
    ),
    "policies": "select p from pg_policies p order by p::text",
    "schemas and types": (
        "select nspname, nspowner::regrole, " + ACL % ("nspacl", "'n'", "nspowner") + " from pg_namespace"
        " where nspname in ('audit', 'public') union all select typname, typowner::regrole, "
        + ACL
        % ("typacl", "'T'", "typowner")
        + " from pg_type where oid in ('audit.actor_context'::regtype, 'audit.lookup'::regtype, 'audit.reader'::regtype)"
        " order by 1"
    ),
    "rows": (
        "select 'document', d::text from public.document d union all select 'member', m::text from public.member m"
        " union all select 'measurement', m::text from public.measurement m"
        " union all select 'permission', p::text from public.document_permission p"
        " union all select 'diary', d::text from public.diary d order by 1, 2"
    ),
}


def portrait(connection: Connection) -> dict[str, list[str]]:
    """Return everything that a restore must bring, by the name of what it is."""
    # Not with literals of the client's: names are shown in full only without a search_path.
    with connection.transaction():
        connection.execute("set local search_path = ''; set local timezone = 'UTC'")
        return {
            name: [row for (row,) in connection.execute(f"select q::text from ({query}) q".encode()).fetchall()]
            for name, query in PORTRAIT.items()
        }


def copy_with_extension(server: Server, folder: Path) -> Server:
    """Copy an installation, which finds its files relative to its programs, and put the extension into the copy."""
    printed = subprocess.check_output(["make", "--no-print-directory", "extension"], cwd=REPOSITORY, text=True)
    share = Path(subprocess.check_output([server.bin / "pg_config", "--sharedir"], text=True).strip())
    libraries_of_wheel = server.bin.parents[2] / f"{server.bin.parents[1].name}.libs"
    for part in filter(Path.is_dir, [server.bin.parent, share, libraries_of_wheel]):
        shutil.copytree(part, folder / part.relative_to("/"), dirs_exist_ok=True)
    for file in (REPOSITORY / printed.strip()).iterdir():
        shutil.copy(file, folder / share.relative_to("/") / "extension")
    return Server(server.version, folder / server.bin.relative_to("/"), "copy")


class Programs:
    """The client programs of one installation, run against a cluster; each returns what it wrote to standard error."""

    def __init__(self, server: Server) -> None:
        self._bin = server.bin

    def run(self, program: str, cluster: Cluster, *arguments: str | Path, **environment: str) -> "Done":
        done = subprocess.run(
            [self._bin / program, f"--host={cluster.socket_folder}", f"--port={cluster.port}", *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, "PGUSER": "postgres", **environment},
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)


class Done:
    """How a program ended."""

    def __init__(self, code: int, output: str, errors: str) -> None:
        self.code = code
        self.output = output
        self.errors = errors


def connect(
    cluster: Cluster, database: str = "postgres", user: str = "postgres"
) -> psycopg.Connection[tuple[Any, ...]]:
    return psycopg.connect(cluster.url(database, user), autocommit=True)
