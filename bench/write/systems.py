"""The systems that are measured: how each is set up in its database, told the actor, and asked what it recorded.

It must not measure. A peer is installed by its own package, run from .venv/bench by a file in peers/.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg

from daybook.schema import migrate

from . import classic, floor
from .clients import NEW_ID, Actor
from .tables import DOCUMENT, WIDE

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv" / "bench" / "bin" / "python"


@dataclass(frozen=True)
class System:
    """A way to record changes.

    `log` is a query for the oids of its log's tables; `recorded` one for (table, operation, key as text, before, after)
    of every change in it, both as jsonb; `nobody` one that counts the changes without the actor. `remembers_before` is
    false where an UPDATE's old values stand only in an earlier row. `keeps_plan`: in a session that wrote one row first
    its statement is planned for one row, and takes time with the square of the rows; here its bulk statements are
    planned anew, which is kind.
    """

    key: str
    title: str
    install: Callable[[str], None]
    actor: Actor | None = None
    log: str = "select null::oid where false"
    recorded: str = ""
    nobody: str = ""
    remembers_before: bool = True
    is_peer: bool = False
    keeps_plan: bool = False
    stores: str = ""


class SetupError(Exception):
    """A peer does not work here; the message says why."""


def nothing(url: str) -> None:
    """Untracked: nothing to install."""


def by_statements(statements: list[str]) -> Callable[[str], None]:
    def install(url: str) -> None:
        with psycopg.connect(url) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    return install


def install_ours(url: str) -> None:
    """Install the log as `daybook migrate` does and track both tables."""
    migrate(url)
    with psycopg.connect(url) as connection:
        connection.execute(
            f"""
            select audit.enable_tracking('{DOCUMENT}', resource_name_column => 'title',
                                         excluded_columns => '{{updated_at}}'),
                   audit.enable_tracking('{WIDE}')
            """.encode()
        )


def by_package(name: str, *arguments: str) -> Callable[[str], None]:
    """Run the peer's own file with the Python that has its package; raise SetupError with its last line."""

    def install(url: str) -> None:
        if not PYTHON.exists():
            raise SetupError("its package is not installed: make bench installs it into .venv/bench")
        command = [str(PYTHON), "-m", f"bench.write.peers.{name}", url, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        if done.returncode:
            raise SetupError((done.stderr.strip().splitlines() or ["no message"])[-1])

    return install


PGHISTORY_ACTOR = Actor(
    "select set_config('pghistory.context_id', %s, true), set_config('pghistory.context_metadata', %s, true)",
    (NEW_ID, json.dumps({"user": 42, "name": "Ada"})),
)
PGHISTORY_LOG = """
    select oid from pg_class where relname in ('pghistory_context', 'bench_documentevent', 'bench_wideevent')
"""
PGHISTORY_EVENTS = " union all ".join(f"select pgh_context_id from bench_{table}event" for table in (DOCUMENT, WIDE))
PGHISTORY_RECORDED = " union all ".join(
    f"""
    select '{table}', upper(pgh_label), pgh_obj_id::text,
           case pgh_label when 'delete' then to_jsonb(e) end, case when pgh_label <> 'delete' then to_jsonb(e) end
    from bench_{table}event e
    """
    for table in (DOCUMENT, WIDE)
)
PGHISTORY_NOBODY = f"""
    select count(*) from ({PGHISTORY_EVENTS}) e left join pghistory_context c on c.id = e.pgh_context_id
    where c.metadata ->> 'name' is distinct from 'Ada'
"""
AUDITRUM_ACTOR = Actor(
    "select set_config('auditrum.context_id', %s, true), set_config('auditrum.context_metadata', %s, true)",
    (NEW_ID, json.dumps({"user_id": 42, "name": "Ada"})),
)
AUDITRUM_NOBODY = """
    select count(*) from auditlog a left join audit_context c on c.id = a.context_id
    where c.metadata ->> 'name' is distinct from 'Ada' or a.user_id is distinct from 42
"""
AUDITRUM_LOG = "select oid from pg_class where relname ~ '^(auditlog|audit_context)' and relkind = 'r'"

SYSTEMS = (
    System("untracked", "untracked", nothing),
    System(
        "floor",
        "floor: by hand",
        by_statements(floor.installation()),
        log="select 'change_log'::regclass::oid",
        recorded="select table_name, operation, key::text, before, after from change_log",
        stores="changed columns, before and after; no index, no actor",
    ),
    System(
        "ours",
        "pg_daybook",
        install_ours,
        Actor(
            "select set_config('audit.actor_id', %s, true), set_config('audit.actor_name', %s, true)",
            ("42", "Ada Lovelace"),
        ),
        log="select partition_oid::oid from audit.day_partition",
        recorded="""
            select e.table_name, e.operation, coalesce(c.row_key, c.resource_id, e.row_key, e.resource_id),
                   coalesce(c.before, e.before), coalesce(c.after, e.after)
            from audit.entry e left join audit.change c on c.entry_id = e.id and e.row_count > 1
            where e.operation <> 'EVENT'
        """,
        nobody="select count(*) from audit.entry where (actor_id, actor_name) is distinct from ('42', 'Ada Lovelace')",
        stores="changed columns, before and after; actor, workspace, event, context, row key; a partition a day",
    ),
    System(
        "pghistory-statement",
        "django-pghistory, statement",
        by_package("django_pghistory", "statement"),
        PGHISTORY_ACTOR,
        PGHISTORY_LOG,
        PGHISTORY_RECORDED,
        PGHISTORY_NOBODY,
        remembers_before=False,
        is_peer=True,
        keeps_plan=True,
        stores="the whole new row, typed, in a table of its own; three indexes; the actor in a row of context",
    ),
    System(
        "pghistory-row",
        "django-pghistory, row",
        by_package("django_pghistory", "row"),
        PGHISTORY_ACTOR,
        PGHISTORY_LOG,
        PGHISTORY_RECORDED,
        PGHISTORY_NOBODY,
        remembers_before=False,
        is_peer=True,
        stores="the same, by row triggers, its default",
    ),
    System(
        "classic",
        "classic (imitation)",
        by_statements(classic.installation()),
        Actor("select set_config('application_name', %s, true)", ("Ada Lovelace",)),
        log="select 'classic.logged_actions'::regclass::oid",
        recorded="""
            select table_name, case action when 'I' then 'INSERT' when 'U' then 'UPDATE' else 'DELETE' end,
                   row_data -> 'id', case when action <> 'I' then hstore_to_jsonb(row_data) end,
                   case action when 'I' then hstore_to_jsonb(row_data) when 'U' then hstore_to_jsonb(changed_fields) end
            from classic.logged_actions
        """,
        nobody="select count(*) from classic.logged_actions where application_name <> 'Ada Lovelace'",
        is_peer=True,
        stores="the whole old row and the changed columns as hstore, and the statement's text; four indexes",
    ),
    System(
        "postgresql-audit",
        "postgresql-audit",
        by_package("postgresql_audit"),
        Actor(
            """
            insert into transaction (native_transaction_id, issued_at, actor_id)
            values (pg_current_xact_id(), now() at time zone 'utc', %s)
            on conflict on constraint transaction_unique_native_tx_id do nothing
            """,
            ("42",),
        ),
        log="select oid from pg_class where relname in ('activity', 'transaction')",
        recorded="""
            select table_name, upper(verb), coalesce(old_data ->> 'id', changed_data ->> 'id'), old_data, changed_data
            from activity
        """,
        nobody="""
            select count(*) from activity a left join transaction t on t.id = a.transaction_id
            where t.actor_id is distinct from '42'
        """,
        is_peer=True,
        keeps_plan=True,
        stores="the whole old row and the changed columns as jsonb; two indexes; the actor in a row a transaction",
    ),
    System(
        "auditrum",
        "auditrum",
        by_package("auditrum_tracking", "full"),
        AUDITRUM_ACTOR,
        AUDITRUM_LOG,
        "select table_name, operation, object_id, old_data, new_data from auditlog",
        AUDITRUM_NOBODY,
        is_peer=True,
        stores="the whole row before and after and the difference as jsonb; five indexes; a partition a month",
    ),
    System(
        "auditrum-diff",
        "auditrum, differences",
        by_package("auditrum_tracking", "diff"),
        AUDITRUM_ACTOR,
        AUDITRUM_LOG,
        """
        select table_name, operation, object_id,
               (select jsonb_object_agg(key, value -> 'old') from jsonb_each(diff)),
               (select jsonb_object_agg(key, value -> 'new') from jsonb_each(diff))
        from auditlog
        """,
        AUDITRUM_NOBODY,
        is_peer=True,
        stores="the difference alone as jsonb; five indexes; a partition a month",
    ),
)
