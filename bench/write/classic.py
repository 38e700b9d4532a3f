"""The classic trigger: for each row, both rows as hstore and what differs. An imitation, written for this bench.

It imitates what https://wiki.postgresql.org/wiki/Audit_trigger_91plus describes: one table for all, the columns there
named, its indexes, `client_query` stored, ignored columns as an argument. It shares no code with it.
"""

from __future__ import annotations

from .tables import DOCUMENT, WIDE


def installation() -> list[str]:
    """Return the statements that install it and track both tables."""
    return [
        "create extension hstore",
        "create schema classic",
        """
        create table classic.logged_actions (
            event_id bigserial primary key,
            schema_name text not null,
            table_name text not null,
            relid oid not null,
            session_user_name text,
            action_tstamp_tx timestamptz not null,
            action_tstamp_stm timestamptz not null,
            action_tstamp_clk timestamptz not null,
            transaction_id bigint,
            application_name text,
            client_addr inet,
            client_port integer,
            client_query text,
            action text not null check (action in ('I', 'D', 'U', 'T')),
            row_data hstore,
            changed_fields hstore,
            statement_only boolean not null)
        """,
        "create index on classic.logged_actions (relid)",
        "create index on classic.logged_actions (action_tstamp_stm)",
        "create index on classic.logged_actions (action)",
        """
        create function classic.log_row() returns trigger language plpgsql security definer
            set search_path = pg_catalog, public
        as $function$
        declare
            ignored text[] := '{}';
            kept hstore;
            differing hstore;
        begin
            if tg_nargs > 0 then
                ignored := tg_argv[0]::text[];
            end if;
            if tg_op = 'UPDATE' then
                kept := hstore(old) - ignored;
                differing := (hstore(new) - kept) - ignored;
                if differing = ''::hstore then
                    return null;
                end if;
            elsif tg_op = 'DELETE' then
                kept := hstore(old) - ignored;
            else
                kept := hstore(new) - ignored;
            end if;
            insert into classic.logged_actions values (
                nextval('classic.logged_actions_event_id_seq'), tg_table_schema, tg_table_name, tg_relid, session_user,
                current_timestamp, statement_timestamp(), clock_timestamp(), txid_current(),
                current_setting('application_name'), inet_client_addr(), inet_client_port(), current_query(),
                substr(tg_op, 1, 1), kept, differing, false);
            return null;
        end
        $function$
        """,
        f"""
        create trigger log_row after insert or update or delete on {DOCUMENT}
            for each row execute function classic.log_row('{{updated_at}}')
        """,
        f"""
        create trigger log_row after insert or update or delete on {WIDE}
            for each row execute function classic.log_row()
        """,
    ]
