"""A database with everything that a dump has to bring, and what is compared of it on both sides.

It must not know what a restore is expected to leave: that is said by the tests, in literals.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from daybook.postgres import Cluster, Server, find_servers
from tests.conftest import LOGINS, REPOSITORY, execute_sql_folder, folder_in_memory
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
select audit.hold_day((now() at time zone 'UTC')::date - 5, 'a lawsuit');
select audit.create_key('abcdefgh', sha256('a'), 'acme', 'Ada''s key', 'admin', null);
select audit.create_key('bcdefghi', sha256('b'), 'acme', 'Old key', 'auditor', null), audit.revoke_key('bcdefghi');
select audit.open_session('abcdefgh', sha256('a'), 'cookie12', sha256('c'));
insert into audit.reading (workspace_id, reader_id, last_used_at) values ('acme', 'abcdefgh', '2026-03-14 12:00Z');
insert into audit.seal (sequence, lower_bound, upper_bound, sealed_at, entries, changes, root, previous_digest, digest)
values (1, '2026-03-14Z', '2026-03-14 12:00Z', '2026-03-14 12:01Z', 0, 0, sha256(''), sha256('a'), sha256('b'));
insert into audit.sealing (problem, problem_since) values ('a full disk', '2026-03-14 12:00Z');
insert into audit.verification (finished_at, blocks, entries, misfit_count, misfits)
values ('2026-03-14 12:02Z', 1, 0, 0, '[]');
"""

# Newer servers give owners a right more, which no dump of an older one can know.
RIGHTS = """array(
    select format('%s=%s/%s', a.grantee::regrole, a.privilege_type, a.grantor::regrole)
    from aclexplode(coalesce({acl}, acldefault({kind}::"char", {owner}))) a
    where a.privilege_type <> 'MAINTAIN' order by 1)"""
OF_RELATION = RIGHTS.format(acl="c.relacl", kind="case c.relkind when 'S' then 's' else 'r' end", owner="c.relowner")
OF_FUNCTION = RIGHTS.format(acl="p.proacl", kind="'f'", owner="p.proowner")
OF_SCHEMA = RIGHTS.format(acl="n.nspacl", kind="'n'", owner="n.nspowner")
OF_TYPE = RIGHTS.format(acl="t.typacl", kind="'T'", owner="t.typowner")
IN_BOTH_SCHEMAS = "in ('audit'::regnamespace, 'public'::regnamespace)"

# What has to be the same on both sides, a query each.
PORTRAIT = {
    "entries": "select e.tableoid::regclass, e from audit.entry e",
    "changes": "select c.tableoid::regclass, c from audit.change c",
    "settings": "select t from audit.tracked_table t",
    "upkeep": "select u from audit.upkeep u",
    "holds": "select h from audit.day_hold h",
    "keys": "select k from audit.api_key k",
    "readings": "select r from audit.reading r",
    "sessions": "select s from audit.page_session s",
    "seals": "select s from audit.seal s",
    "sealing": "select s from audit.sealing s",
    "verifications": "select v from audit.verification v",
    "version": "select v from audit.schema_version v",
    "floor": "select last_value, is_called from audit.floor",
    "next table's number": "select last_value, is_called from audit.tracked_table_id_seq",
    "days": "select log_table, partition_name, lower_bound, upper_bound, is_beyond from audit.day_partition",
    "tables": f"""
        select c.oid::regclass, c.relkind, c.relowner::regrole, c.relrowsecurity, c.relforcerowsecurity, c.reloptions,
               obj_description(c.oid, 'pg_class'), {OF_RELATION}
        from pg_class c where c.relnamespace {IN_BOTH_SCHEMAS} and c.relkind in ('r', 'p', 'v', 'S')""",
    "columns": f"""
        select a.attrelid::regclass, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attacl::text,
               col_description(a.attrelid, a.attnum)
        from pg_attribute a join pg_class c on c.oid = a.attrelid
        where c.relnamespace {IN_BOTH_SCHEMAS} and c.relkind in ('r', 'p', 'v')
          and a.attnum > 0 and not a.attisdropped""",
    "indexes": f"""
        select i.indexrelid::regclass, i.indisvalid, pg_get_indexdef(i.indexrelid)
        from pg_index i join pg_class c on c.oid = i.indrelid where c.relnamespace {IN_BOTH_SCHEMAS}""",
    # Constraints of kind n are what newer servers make of NOT NULL.
    "constraints": f"""
        select conrelid::regclass, conname, pg_get_constraintdef(oid)
        from pg_constraint where connamespace {IN_BOTH_SCHEMAS} and contype <> 'n'""",
    "functions": f"""
        select p.oid::regprocedure, p.proowner::regrole, p.prosecdef, p.proconfig, p.provolatile, p.proparallel,
               md5(p.prosrc), obj_description(p.oid, 'pg_proc'), {OF_FUNCTION}
        from pg_proc p where p.pronamespace = 'audit'::regnamespace""",
    "triggers": """
        select t.tgrelid::regclass, t.tgname, t.tgenabled, t.tgfoid::regproc, t.tgtype, t.tgoldtable, t.tgnewtable
        from pg_trigger t where not t.tgisinternal""",
    "event triggers": """
        select evtname, evtevent, evtowner::regrole, evtenabled, evttags, evtfoid::regproc,
               obj_description(oid, 'pg_event_trigger')
        from pg_event_trigger""",
    "policies": "select p from pg_policies p",
    "schemas": f"""
        select n.nspname, n.nspowner::regrole, {OF_SCHEMA} from pg_namespace n where n.oid {IN_BOTH_SCHEMAS}""",
    "types": f"""
        select t.oid::regtype, t.typowner::regrole, {OF_TYPE}
        from pg_type t
        where t.typnamespace = 'audit'::regnamespace and t.typname in ('actor_context', 'lookup', 'reader')""",
    "documents": "select d from public.document d",
    "members": "select m from public.member m",
    "measurements": "select m.tableoid::regclass, m from public.measurement m",
    "permissions": "select p from public.document_permission p",
    "diaries": "select d from public.diary d",
}


def portrait(connection: Connection, *names: str) -> dict[str, list[str]]:
    """Return what a restore must bring, everything or what is named, by the name of what it is."""
    # Names are shown in full only without a search_path.
    with connection.transaction():
        connection.execute("set local search_path = ''; set local timezone = 'UTC'")
        return {
            name: sorted(row for (row,) in connection.execute(f"select q::text from ({query}) q".encode()).fetchall())
            for name, query in PORTRAIT.items()
            if name in (names or PORTRAIT)
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


@contextmanager
def clusters(server: Server) -> Iterator[tuple[Path, Cluster, Cluster]]:
    """Make a cluster of a server, one of the newest server found, both stopped, and a folder for what goes between."""
    folder = folder_in_memory()
    newest = max(find_servers(), key=lambda found: found.version)
    old = Cluster(copy_with_extension(server, folder / "old"), folder / "a", settings=SETTINGS)
    new = Cluster(copy_with_extension(newest, folder / "new"), folder / "b", settings=SETTINGS)
    try:
        yield folder, old, new
    finally:
        old.stop()
        new.stop()
        shutil.rmtree(folder)


def fill(cluster: Cluster) -> None:
    """Make two databases with the same in them: one where the log was installed by its files, one as an extension."""
    with connect(cluster) as connection:
        for login in LOGINS:
            connection.execute(f"create role {login} login".encode())
        connection.execute("create database plain")
        connection.execute("create database extension")
    with connect(cluster, "plain") as plain, connect(cluster, "extension") as extension:
        execute_sql_folder(plain)
        extension.execute("create extension pg_daybook")
        plain.execute("grant audit_writer to app_owner; grant audit_maintainer to maintainer; grant audit_dba to dba")
        for connection in (plain, extension):
            connection.execute(SCHEMA.encode())
            connection.execute(DATA.encode())


def findings(connection: Connection) -> list[tuple[Any, ...]]:
    """Return what audit.check() says, save that the tables' owner can log in, which is so on both sides."""
    query = "select problem, object_name, mend from audit.check() where problem <> 'owner_can_log_in'"
    return connection.execute(query.encode()).fetchall()


@contextmanager
def rolled_back(connection: Connection) -> Iterator[None]:
    """Leave the database as it was, for the test that comes after."""
    with connection.transaction(force_rollback=True):
        yield


def write(connection: Connection) -> None:
    """Write to each tracked table as its owner."""
    connection.execute("set local role app_owner")
    connection.execute("insert into document values (3, 'acme', 'Plan', 's3cret', 't0ken', 'calm', 'b=>1')")
    connection.execute("insert into document_permission values (2, 3, 2, 'view'), (3, 2, 1, 'view'), (4, 1, 2, 'view')")
    connection.execute("update document set token = 'n3w', secret = 'n3w' where id = 3")
    connection.execute("update document set secret = 's3cr3t'")
    connection.execute("update document set mood = 'calm' where id = 2")
    connection.execute("update measurement set id = 102 where id = 2")
    connection.execute("delete from measurement_high")
    connection.execute("delete from document_permission where id = 1")
    connection.execute("truncate document_permission")
    connection.execute("reset role")


REDACTED = {"redacted": True}
COLUMNS = "event, workspace_id, resource_id, resource_name, row_count, before, after, context -> 'subject' ->> 'name'"
WRITTEN = [
    (
        "resource_created", "acme", "3", "Plan", 1, None,
        {"id": 3, "workspace_id": "acme", "title": "Plan", "token": REDACTED, "mood": "calm", "tags": '"b"=>"1"'}, None,
    ),
    ("permission_granted", "acme", None, None, 2, None, None, "Alan"),
    (
        "permission_granted", "globex", "2", "Costs", 1, None,
        {"id": 3, "document_id": 2, "member_id": 1, "level": "view"}, "Grace",
    ),
    ("resource_updated", "acme", "3", "Plan", 1, {"token": REDACTED}, {"token": REDACTED}, None),
    ("mood_changed", "globex", "2", "Costs", 1, {"mood": "cross"}, {"mood": "calm"}, None),
    ("resource_updated", "acme", "102", None, 1, {"id": 2}, {"id": 102}, None),
    ("resource_deleted", "acme", None, None, 2, None, None, None),
    (
        "permission_revoked", "acme", "1", "Revenue", 1,
        {"id": 1, "document_id": 1, "member_id": 1, "level": "edit"}, None, "Grace",
    ),
    ("permission_revoked", "acme", None, None, 2, None, None, None),
    ("permission_revoked", "globex", None, None, 1, None, None, None),
]  # fmt: skip
CHANGED = "resource_id, resource_name, row_key, before, after"
WRITTEN_CHANGES = [
    ("1", "Revenue", "4", None, {"id": 4, "document_id": 1, "member_id": 2, "level": "view"}),
    ("3", "Plan", "2", None, {"id": 2, "document_id": 3, "member_id": 2, "level": "view"}),
    ("101", None, None, {"id": 101, "workspace_id": "acme", "value": 2.5}, None),
    ("102", None, None, {"id": 102, "workspace_id": "acme", "value": 1.0}, None),
]
