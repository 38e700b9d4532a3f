"""The `daybook` command: reads its arguments and calls one function of another module for each subcommand.

It must print nothing on standard output but what a script needs; everything else goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import psycopg

from daybook import __version__

from . import keys, upkeep
from .postgres import PostgresError
from .settings import SettingError, Settings

DONE, FOUND, WRONG_USE, UNREACHABLE = 0, 1, 2, 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 done, 1 a check found something, 2 wrong use, 3 no database."""
    options = build_parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except KeyboardInterrupt:
        return 130
    except (SettingError, PostgresError) as error:
        return _complain(str(error), WRONG_USE)
    except (psycopg.errors.InvalidSchemaName, psycopg.errors.UndefinedTable, psycopg.errors.UndefinedFunction):
        return _complain("pg_daybook is not installed in this database; run: daybook migrate", WRONG_USE)
    except psycopg.errors.InsufficientPrivilege as error:
        sentence = error.diag.message_primary or "the login may not do this"
        return _complain(
            f"{sentence}. maintain and key want a member of audit_maintainer, status one of audit_dba or"
            " audit_maintainer, migrate one of audit_owner.",
            WRONG_USE,
        )
    except psycopg.errors.CheckViolation as error:
        return _complain(f"refused: {error.diag.constraint_name or error}", WRONG_USE)
    except psycopg.OperationalError as error:
        return _complain(f"the database cannot be reached: {str(error).strip()}", UNREACHABLE)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command with all its subcommands."""
    parser = argparse.ArgumentParser(
        prog="daybook",
        description="An audit log for PostgreSQL applications: who did what, when, to what.",
        epilog="Settings come from the environment (DAYBOOK_DATABASE_URL and others); the README lists them.",
    )
    parser.add_argument("--version", action="version", version=f"daybook {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    demo = _command(commands, "demo", _demo, "run a sample application with weeks of activity, and the page")
    demo.add_argument("--port", type=_port, default=8000, help="port of the web page on 127.0.0.1 (8000)")
    demo.add_argument("--data", type=Path, metavar="FOLDER", help="where the demo keeps its database")
    demo.add_argument("--fresh", action="store_true", help="begin again with new data")

    serve = _command(commands, "serve", _serve, "serve the REST app and the page")
    serve.add_argument("--host", help="address to listen on (DAYBOOK_HOST, 127.0.0.1)")
    serve.add_argument("--port", type=_port, help="port to listen on (DAYBOOK_PORT, 8000)")

    install = _command(commands, "migrate", _migrate, "install the log, or bring it to this version")
    install.add_argument("--downgrade", action="store_true", help="take the log out of the database")
    install.add_argument("--destroy-log", action="store_true", help="with --downgrade: yes, with all its entries")

    maintain = _command(commands, "maintain", _maintain, "make days ahead, drop days past retention")
    maintain.add_argument("--every", type=_span, metavar="SPAN", help="go on for ever, a run each SPAN, such as 1s")
    maintain.add_argument("--json", action="store_true", help="print what was done as JSON")

    state = _command(commands, "status", _status, "tell how upkeep and tracking stand; exit code 1: not well")
    state.add_argument("--json", action="store_true", help="print it as JSON")

    key = commands.add_parser("key", help="make, list and revoke keys of the REST app")
    key_commands = key.add_subparsers(metavar="COMMAND", required=True)
    create = _command(key_commands, "create", _key_create, "make a key and print it")
    create.add_argument("--workspace", required=True, type=_text, help="the workspace that it reads")
    create.add_argument("--name", required=True, type=_text, help="what it is for, or whose it is")
    create.add_argument("--role", required=True, choices=keys.ROLES, help="admin and auditor read, member does not")
    create.add_argument("--expires", metavar="WHEN", type=_expiry, help="2027-01-31, 90d or 12h (never)")
    listing = _command(key_commands, "list", _key_list, "list the keys")
    listing.add_argument("--json", action="store_true", help="print them as JSON")
    revoke = _command(key_commands, "revoke", _key_revoke, "revoke a key from the next request on")
    revoke.add_argument("prefix", type=_text, help="its first 8 characters after daybook_")
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace], int],
    purpose: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=purpose, description=purpose[0].upper() + purpose[1:] + ".")
    parser.set_defaults(run=run)
    return parser


def _demo(options: argparse.Namespace) -> int:
    # Imported here: what only the demo needs is an extra of the package.
    from . import demo

    return demo.run(options.port, options.data, options.fresh)


def _serve(options: argparse.Namespace) -> int:
    from .app import StartError, serve

    settings = _settings()
    try:
        serve(settings, options.host or settings.host, settings.port if options.port is None else options.port)
    except StartError as error:
        return _complain(str(error), WRONG_USE)
    return DONE


def _migrate(options: argparse.Namespace) -> int:
    # Imported here: Alembic and SQLAlchemy would make every other command start later.
    from .schema import SchemaError, downgrade, migrate

    settings = _settings()
    try:
        if options.downgrade:
            downgrade(settings.conninfo, options.destroy_log)
            _tell("the log is gone; schema audit holds its version table alone")
        else:
            _tell(f"schema audit is at version {migrate(settings.conninfo)}")
    except SchemaError as error:
        return _complain(str(error), WRONG_USE)
    return DONE


def _maintain(options: argparse.Namespace) -> int:
    settings = _settings()
    if options.every is None:
        _tell_run(upkeep.maintain(settings.conninfo), options.json)
        return DONE
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    last_problem = None
    while not stop.is_set():
        try:
            run = upkeep.maintain(settings.conninfo)
            problem = run.problem
            if run.days_made or run.days_dropped or run.functions_compiled or options.json:
                _tell_run(run, options.json)
        except psycopg.OperationalError as error:
            # A database that restarts is no reason to end a service.
            problem = f"the database cannot be reached: {str(error).strip()}"
        if problem and problem != last_problem:
            _tell(problem)
        last_problem = problem
        stop.wait(options.every)
    return DONE


def _tell_run(run: upkeep.Run, as_json: bool) -> None:
    if as_json:
        print(json.dumps(run.as_json()), flush=True)
    elif not run.ran:
        _tell("another run of upkeep is at work")
    else:
        _tell(
            f"days made: {run.days_made}; days dropped: {', '.join(run.days_dropped) or 'none'};"
            f" functions compiled: {run.functions_compiled}" + (f"; {run.problem}" if run.problem else "")
        )


def _status(options: argparse.Namespace) -> int:
    state = upkeep.status(_settings().conninfo)
    if options.json:
        print(json.dumps(state.as_json()))
    else:
        print(f"version          {state.version or 'unknown'}")
        print(f"last upkeep      {state.last_run_at or 'never'}{' (late)' if state.is_late else ''}")
        print(f"last problem     {state.last_problem or 'none'}")
        print(f"prepared until   {state.prepared_until}")
        print(f"oldest day       {state.oldest_day}")
        print(f"retention        {state.retention_days} days")
        print(f"entries beyond   {state.entries_beyond}")
        print(f"tracked tables   {len(state.tracked_tables)}")
        for table in state.tracked_tables:
            print(f"  {table.table} ({table.kind}): {'well' if not table.findings else ''}".rstrip())
            _print_findings(table.findings, "    ")
        _print_findings(state.findings, "  ")
    return DONE if state.is_well else FOUND


def _print_findings(findings: Sequence[upkeep.Finding], margin: str) -> None:
    for row in findings:
        print(f"{margin}{row.severity}: {row.problem} on {row.object_name}. {row.detail}\n{margin}  mend: {row.mend}")


def _key_create(options: argparse.Namespace) -> int:
    with psycopg.connect(_settings().conninfo) as connection:
        print(keys.create_key(connection, options.workspace, options.name, options.role, options.expires))
    _tell("this is the only time that the key is shown")
    return DONE


def _key_list(options: argparse.Namespace) -> int:
    with psycopg.connect(_settings().conninfo) as connection:
        rows = keys.list_keys(connection)
    if options.json:
        print(json.dumps([{**row._asdict()} for row in rows], default=lambda moment: moment.isoformat()))
        return DONE
    for row in rows:
        state = (
            "revoked" if row.revoked_at else f"expires {row.expires_at:%Y-%m-%d %H:%M}" if row.expires_at else "valid"
        )
        print(f"{row.prefix}  {row.role:<8} {row.workspace_id}  {row.name}  ({state})")
    return DONE


def _key_revoke(options: argparse.Namespace) -> int:
    with psycopg.connect(_settings().conninfo) as connection:
        if not keys.revoke_key(connection, options.prefix):
            return _complain(f"there is no valid key {options.prefix}; daybook key list shows them", WRONG_USE)
    _tell(f"key {options.prefix} is revoked")
    return DONE


def _settings() -> Settings:
    settings = Settings.from_environment()
    for warning in settings.warnings:
        _tell(warning)
    return settings


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; give a number from 0 to 65535")
    return int(text)


def _span(text: str) -> float:
    span = re.fullmatch(r"([0-9]{1,6})(ms|s|min|h)?", text)
    seconds = int(span[1]) * {"ms": 0.001, "s": 1, "min": 60, "h": 3600}[span[2] or "s"] if span else 0
    if seconds <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no span of time such as 1s, 500ms, 5min or 1h")
    return seconds


def _text(text: str) -> str:
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError("it is empty")
    return text


def _expiry(text: str) -> object:
    try:
        return keys.parse_expiry(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _tell(sentence: str) -> None:
    print(f"daybook: {sentence}", file=sys.stderr, flush=True)


def _complain(sentence: str, code: int) -> int:
    _tell(sentence)
    return code


if __name__ == "__main__":
    sys.exit(main())
