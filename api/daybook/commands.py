"""The `daybook` command: reads its arguments and calls one function of another module for each subcommand.

It must print nothing on standard output but what a script needs; everything else goes to standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from traceback import extract_tb
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg

from daybook import __version__

from . import keys, seals, upkeep
from .credentials import MARK, PREFIX_LENGTH
from .database import connect
from .postgres import UNREACHABLE as UNREACHABLE_STATES
from .postgres import PostgresError
from .seals import Sealer
from .settings import SettingError, Settings
from .signing import SealError, make_key, read_public_key

if TYPE_CHECKING:
    from . import witness
    from .verification import Result

DONE, FOUND, WRONG_USE, UNREACHABLE = 0, 1, 2, 3
# As a shell tells of a command that a signal ended.
INTERRUPTED, ENDED = 128 + signal.SIGINT, 128 + signal.SIGTERM
NOT_INSTALLED = "pg_daybook is not installed in this database; run: daybook migrate"
# Seconds between two looks for stale capture functions by a service.
STALE_AFTER = 60.0
# What may be asked of an export: the filters of the REST app's lists, by its own names.
EXPORT_HELP = {
    "days": "entries of the last so many times 24 hours (90)",
    "event": "events by name, or by their beginning (resource_*); repeated or separated by commas",
    "performer_id": "who did it; system too",
    "resource_type": "the kind of thing affected",
    "resource_id": "the thing affected",
    "created_after": "this moment or later, such as 2026-03-14 or 2026-03-14T09:30:00Z",
    "created_before": "before this moment",
    "request_id": "the application's request",
    "q": "words, all of which an entry holds in its names or changed values",
    "as_of": "now: only what is final now",
    "expand": "further keys of an NDJSON entry: changes, context, actor, resource",
}
LONGEST_WORKSPACE = 2000
LONGEST_NAME = 500


class OutputError(Exception):
    """Standard output does not take what is printed; the text says why."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 done, 1 a check found something, 2 wrong use, 3 no database."""
    _make_streams_take_anything()
    code = _run(arguments)
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        _give_standard_output_up()
        code = _complain(f"cannot write to standard output: {error.strerror}", WRONG_USE)
    return code


def _give_standard_output_up() -> None:
    """What is left in the buffer would fail once more when Python ends, with an exit code of its own."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _make_streams_take_anything() -> None:
    """Let a name that the terminal's encoding lacks be printed escaped, and a closed standard error be ignored."""
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lives
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _run(arguments: Sequence[str] | None) -> int:
    try:
        options = build_parser().parse_args(arguments)
        return int(options.run(options))
    except SystemExit as end:
        # argparse has said what there is to say.
        return end.code if isinstance(end.code, int) else DONE
    except KeyboardInterrupt:
        return INTERRUPTED
    except OutputError as error:
        return _complain(f"cannot write to standard output: {error}", WRONG_USE)
    except MemoryError:
        return _complain("there is not enough memory", WRONG_USE)
    except (SettingError, PostgresError, SealError) as error:
        return _complain(str(error), WRONG_USE)
    except (psycopg.errors.InvalidSchemaName, psycopg.errors.UndefinedTable, psycopg.errors.UndefinedFunction):
        return _complain(NOT_INSTALLED, WRONG_USE)
    except psycopg.errors.InsufficientPrivilege as error:
        sentence = error.diag.message_primary or "the login may not do this"
        return _complain(
            f"{sentence}. maintain, seal and key want a member of audit_maintainer, status, verify and prove one of"
            " audit_dba or audit_maintainer, migrate one of audit_owner, serve and export one of audit_reader.",
            WRONG_USE,
        )
    except psycopg.errors.CheckViolation as error:
        return _complain(f"refused: {error.diag.constraint_name or error}", WRONG_USE)
    except psycopg.Error as error:
        return _complain_of(error)
    except Exception as error:
        # Never the interpreter's exit code 1, which says that a check found something.
        place = extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__}: {error} ({Path(place.filename).name}, line {place.lineno})"
        return _complain(f"something unexpected went wrong: {what}", WRONG_USE)


def _complain_of(error: psycopg.Error) -> int:
    if (
        isinstance(error, psycopg.OperationalError)
        if error.sqlstate is None
        else error.sqlstate.startswith(UNREACHABLE_STATES)
    ):
        return _complain(f"the database cannot be reached: {str(error).strip()}", UNREACHABLE)
    return _complain(error.diag.message_primary or str(error).strip(), WRONG_USE)


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

    seal = _command(commands, "seal", _seal, "seal the entries that are final, or make a key that signs seals")
    seal.add_argument(
        "--digests", metavar="PLACE", help="file, folder or - that digests are added to (DAYBOOK_SEAL_DIGESTS)"
    )
    seal.add_argument("--new-key", type=Path, metavar="FILE", help="make a key instead, and print its public key")

    verify = _command(commands, "verify", _verify, "compute all digests again; exit code 1: something does not fit")
    verify.add_argument("--from", dest="since", type=_moment, metavar="WHEN", help="blocks that end after this moment")
    verify.add_argument("--to", dest="until", type=_moment, metavar="WHEN", help="blocks that begin before it")
    verify.add_argument(
        "--digests", type=Path, metavar="PLACE", help="file or folder of digests that were kept elsewhere"
    )
    verify.add_argument(
        "--public-key", type=Path, action="append", default=[], metavar="FILE", help="whose signatures hold; repeated"
    )
    verify.add_argument("--json", action="store_true", help="print the result as JSON")

    prove = _command(commands, "prove", _prove, "print the proof that an entry stands in a sealed block, as JSON")
    prove.add_argument("entry", type=_entry_id, metavar="ENTRY", help="the entry's id")
    looking = _command(commands, "witness", _witness, "hold the log against the WAL; exit code 1: it does not fit")
    ways = looking.add_mutually_exclusive_group()
    ways.add_argument("--start", action="store_true", help="make slot and publications, or take new tables in")
    ways.add_argument("--stop", action="store_true", help="drop slot and publications")
    ways.add_argument("--follow", action="store_true", help="go on until interrupted, a run each second")

    key = commands.add_parser("key", help="make, rotate, list and revoke keys of the REST app")
    key_commands = key.add_subparsers(metavar="COMMAND", required=True)
    create = _command(key_commands, "create", _key_create, "make a key and print it")
    create.add_argument("--workspace", required=True, type=_workspace, help="the workspace that it reads")
    create.add_argument("--name", required=True, type=_name, help="what it is for, or whose it is")
    create.add_argument("--role", required=True, choices=keys.ROLES, help="admin and auditor read, member does not")
    create.add_argument("--expires", metavar="WHEN", type=_expiry, help="2027-01-31, 90d or 12h (never)")
    rotate = _command(key_commands, "rotate", _key_rotate, "make a key that takes another's place, and print it")
    rotate.add_argument(
        "prefix", type=_prefix, metavar="PREFIX", help="the old key's first 8 characters after daybook_"
    )
    rotate.add_argument(
        "--overlap",
        metavar="SPAN",
        type=_overlap,
        default=timedelta(hours=24),
        help="how long both are valid: 24h (the default), 7d, 30min, or 0 to end the old one at once",
    )
    rotate.add_argument(
        "--expires", metavar="WHEN", type=_expiry, help="2027-01-31, 90d or 12h (as long as the old one)"
    )
    listing = _command(key_commands, "list", _key_list, "list the keys")
    listing.add_argument("beginning", nargs="?", default="", metavar="PREFIX", help="those whose prefix begins so")
    listing.add_argument("--json", action="store_true", help="print them as JSON")
    revoke = _command(key_commands, "revoke", _key_revoke, "revoke a key from the next request on")
    revoke.add_argument("prefix", type=_prefix, metavar="PREFIX", help="its first 8 characters after daybook_")

    export = _command(
        commands, "export", _export, "write a workspace's entries to a file, as the REST app exports them"
    )
    export.add_argument("--workspace", required=True, type=_workspace, help="the workspace that is exported")
    export.add_argument("--format", choices=("ndjson", "csv"), default="ndjson", help="ndjson (the default) or csv")
    export.add_argument("--output", default="-", metavar="FILE", help="the file to write; - (the default): print it")
    export.add_argument("--force", action="store_true", help="replace a file that is there already")
    export.add_argument("--gzip", action="store_true", help="compress it")
    export.add_argument("--as", dest="name", type=_name, metavar="NAME", help="who exports, beside the database login")
    for name, meaning in EXPORT_HELP.items():
        # Kept as given, however often: what is wrong with them is for parameters.py to say.
        option = f"--{name.replace('_', '-')}"
        export.add_argument(option, dest=name, action="append", default=[], metavar="VALUE", help=meaning)
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
        serve(settings, options.host or None, options.port)
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
    sealer = Sealer.of(settings.seal_key_file, settings.seal_digests)
    if options.every is None:
        _tell_run(upkeep.maintain(settings.conninfo, sealer=sealer), options.json)
        return DONE
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    last_problem = None
    next_look = time.monotonic()
    while not stop.is_set():
        look_for_stale = time.monotonic() >= next_look
        try:
            run = upkeep.maintain(settings.conninfo, look_for_stale, in_service=True, sealer=sealer)
            if look_for_stale:
                next_look = time.monotonic() + STALE_AFTER
            problem = run.problem
            if run.days_made or run.days_closed or run.days_dropped or run.functions_compiled or options.json:
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
        _print(json.dumps(run.as_json()))
    elif not run.ran:
        _tell("another run of upkeep is at work")
    else:
        _tell(
            f"days made: {run.days_made}; days closed: {', '.join(run.days_closed) or 'none'};"
            f" days dropped: {', '.join(run.days_dropped) or 'none'}; blocks sealed: {run.blocks_sealed};"
            f" functions compiled: {run.functions_compiled}" + (f"; {run.problem}" if run.problem else "")
        )


def _seal(options: argparse.Namespace) -> int:
    if options.new_key:
        _print(make_key(options.new_key).strip())
        _tell(f"{options.new_key} holds the private key: keep it where no database administrator reads it")
        return DONE
    settings = _settings()
    sealer = Sealer.of(settings.seal_key_file, options.digests or settings.seal_digests)
    with connect(settings.conninfo, autocommit=True) as connection:
        # The first call sets a floor, the second, when no older transaction is open, publishes it.
        for _ in range(2):
            connection.execute("select audit.advance_watermark()")
        try:
            done = seals.seal(settings.conninfo, sealer)
        except SealError as error:
            connection.execute("select audit.note_sealing(%s)", [str(error)])
            return _complain(str(error), FOUND)
        connection.execute("select audit.note_sealing(null)")
    _tell(
        f"sealed {done.blocks} blocks of {done.entries:,} entries; all before"
        f" {done.until or 'nothing'} is sealed{'' if sealer.key else ', not signed'}"
    )
    return DONE


def _verify(options: argparse.Namespace) -> int:
    # Imported here, as is what it needs of processes: other commands would start later.
    from . import verification
    from .files import Progress

    settings = _settings()
    keys = [read_public_key(path) for path in options.public_key]
    if not keys and settings.seal_key_file:
        keys = [read_public_key(settings.seal_key_file)]
    progress = Progress(sys.stderr)
    try:
        result = verification.verify(
            settings.conninfo,
            since=options.since,
            until=options.until,
            digests=options.digests,
            public_keys=keys,
            on_progress=progress,
        )
    finally:
        progress.clear()
    problem = verification.note(settings.conninfo, result)
    if problem:
        _tell(f"the result is not noted in the database: {problem}")
    if options.json:
        _print(json.dumps(result.as_json()))
    else:
        _print(*_result_lines(result))
    return DONE if result.fits else FOUND


def _result_lines(result: Result) -> Iterator[str]:
    yield f"verified         {result.blocks} blocks, {result.entries:,} entries, {result.changes:,} changed rows"
    if result.verified_from:
        yield f"from, until      {_utc(result.verified_from)}, {_utc(result.verified_until)}"
    yield f"sealed until     {_utc(result.sealed_until) if result.sealed_until else 'nothing is sealed'}"
    yield f"signatures       {result.signed} hold"
    yield f"kept elsewhere   {result.kept} digests were compared"
    for day in result.dropped:
        told = "" if day.is_told else ", whose entry was dropped as well"
        yield (
            f"dropped          blocks {day.first} to {day.last}, until {_utc(day.upper_bound)},"
            f" {day.entries:,} entries, by retention{told}"
        )
    for note in result.notes:
        yield f"note             {note}"
    yield f"does not fit     {result.misfit_count or 'nothing'}"
    for misfit in result.misfits:
        entry = f", entry {misfit.entry_id}" if misfit.entry_id else ""
        block = f"block {misfit.block}" if misfit.block else "no block"
        yield f"  {misfit.kind}: {block}{entry}: {misfit.detail}"
    if result.misfit_count > len(result.misfits):
        yield f"  and {result.misfit_count - len(result.misfits)} more"


def _utc(moment: datetime | None) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if moment else "none"


def _prove(options: argparse.Namespace) -> int:
    from .proofs import prove

    _print(json.dumps(prove(_settings().conninfo, options.entry), indent=1))
    return DONE


def _status(options: argparse.Namespace) -> int:
    state = upkeep.status(_settings().conninfo)
    if options.json:
        _print(json.dumps(state.as_json()))
    else:
        _print(*_status_lines(state))
    return DONE if state.is_well else FOUND


def _status_lines(state: upkeep.Status) -> Iterator[str]:
    yield f"version          {state.version or 'unknown'}"
    yield f"last upkeep      {state.last_run_at or 'never'}{' (late)' if state.is_late else ''}"
    yield f"last problem     {state.last_problem or 'none'}"
    yield f"prepared until   {state.prepared_until}"
    yield f"oldest day       {state.oldest_day}"
    yield f"retention        {state.retention_days} days"
    yield f"days on hold     {', '.join(state.days_held) or 'none'}"
    yield f"entries beyond   {state.entries_beyond}"
    yield f"watermark        {state.watermark or 'none'}{_holder(state.watermark_held_by)}"
    yield f"counted until    {state.counted_until or 'nothing'}"
    yield f"days to close    {state.days_to_close}"
    yield f"sealed until     {_sealing(state.integrity)}"
    yield f"last verified    {_last_verified(state.integrity)}"
    yield f"tracked tables   {len(state.tracked_tables)}"
    for table in state.tracked_tables:
        yield f"  {table.table} ({table.kind}): {'well' if not table.findings else ''}".rstrip()
        yield from _finding_lines(table.findings, "    ")
    yield from _finding_lines(state.findings, "  ")


def _sealing(integrity: Mapping[str, Any]) -> str:
    if not integrity["blocks"]:
        return "nothing is sealed"
    signed = "signed" if integrity["is_signed"] else "not signed"
    problem = f"; {integrity['problem']}" if integrity["problem"] else ""
    return f"{integrity['sealed_until']}, {integrity['blocks']} blocks, {signed}{problem}"


def _last_verified(integrity: Mapping[str, Any]) -> str:
    if not integrity["verified_at"]:
        return "never"
    age = datetime.now(UTC) - datetime.fromisoformat(integrity["verified_at"])
    found = f"{integrity['misfits']} misfits" if integrity["misfits"] else "all fits"
    return f"{integrity['verified_at']}, {age.days} days {age.seconds // 3600} hours ago: {found}"


def _holder(holder: Mapping[str, object] | None) -> str:
    if holder is None:
        return ""
    who = f"prepared transaction {holder['prepared']}" if holder["prepared"] else f"process {holder['process']}"
    application = f" ({holder['application']})" if holder["application"] else ""
    return f", held back by {who} of {holder['user']} in database {holder['database']}{application}"


def _finding_lines(findings: Sequence[upkeep.Finding], margin: str) -> Iterator[str]:
    for row in findings:
        yield f"{margin}{row.severity}: {row.problem} on {row.object_name}. {row.detail}\n{margin}  mend: {row.mend}"


def _witness(options: argparse.Namespace) -> int:
    from . import witness

    with connect(_settings().conninfo, autocommit=True) as connection:
        try:
            if options.start or options.stop:
                _tell((witness.start if options.start else witness.stop)(connection, _tell))
                return DONE
            misfits = 0
            while True:
                outcome = witness.run(connection, lambda misfit: _print(_escaped(str(misfit))))
                misfits += outcome.misfits
                if not options.follow or outcome.transactions:
                    _tell(_outcome_sentence(outcome))
                if not options.follow:
                    return FOUND if misfits else DONE
                time.sleep(1)
        except witness.WitnessError as error:
            return _complain(str(error), FOUND)
        except psycopg.errors.InsufficientPrivilege as error:
            return _complain(f"{error.diag.message_primary}; docs/witness.md says what the login needs", WRONG_USE)


def _outcome_sentence(outcome: witness.Outcome) -> str:
    said = f"{outcome.transactions} transactions compared, {outcome.rows} changed rows with {outcome.entries} entries"
    if outcome.unproved:
        said += f"; {outcome.unproved} updates without an entry may have changed nothing: the WAL lacks their old rows"
    if outcome.not_compared:
        said += f"; {outcome.not_compared} rows and entries of tables that are not tracked or not looked at"
    return f"{said}; {outcome.misfits or 'nothing'} that does not fit, up to {outcome.position}"


def _key_create(options: argparse.Namespace) -> int:
    # Printed within the transaction: a key that nobody could read is not made.
    with connect(_settings().conninfo) as connection, connection.transaction():
        _print(keys.create_key(connection, options.workspace, options.name, options.role, options.expires))
    _tell("this is the only time that the key is shown")
    return DONE


def _key_rotate(options: argparse.Namespace) -> int:
    with connect(_settings().conninfo) as connection, connection.transaction():
        rotated = keys.rotate_key(connection, options.prefix, options.overlap, options.expires)
        if rotated is None:
            return _complain(f"there is no valid key {options.prefix}; daybook key list shows them", WRONG_USE)
        _print(rotated.key)
    old_until = _until(rotated.old_key_ends_at) if options.overlap else "no longer"
    _tell(f"key {options.prefix} is valid {old_until}; the new one {_until(rotated.new_key_ends_at)}")
    _tell("this is the only time that the key is shown")
    return DONE


def _until(moment: datetime | None) -> str:
    return f"until {moment:%Y-%m-%d %H:%M} UTC" if moment else "for ever"


def _key_list(options: argparse.Namespace) -> int:
    with connect(_settings().conninfo) as connection:
        rows = keys.list_keys(connection, options.beginning.removeprefix(MARK)[:PREFIX_LENGTH])
    if options.json:
        _print(json.dumps([{**row._asdict()} for row in rows], default=lambda moment: moment.isoformat()))
        return DONE
    now = datetime.now(UTC)
    _print(
        *(
            f"{row.prefix}  {row.role:<8} {_escaped(row.workspace_id)}  {_escaped(row.name)}"
            f"  ({_key_state(row, now)}, {_key_use(row)})"
            for row in rows
        )
    )
    return DONE


def _key_state(key: keys.Key, now: datetime) -> str:
    if key.revoked_at:
        return "revoked"
    if key.expires_at is None:
        return "valid"
    return f"{'expired' if key.expires_at <= now else 'expires'} {key.expires_at:%Y-%m-%d %H:%M}"


def _key_use(key: keys.Key) -> str:
    return f"used {key.last_used_at:%Y-%m-%d %H:%M}" if key.last_used_at else "never used"


def _escaped(text: str) -> str:
    """A text for one line of a terminal: what is no printable character is written as Python would."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in text)


def _key_revoke(options: argparse.Namespace) -> int:
    with connect(_settings().conninfo) as connection:
        if not keys.revoke_key(connection, options.prefix):
            return _complain(f"there is no valid key {options.prefix}; daybook key list shows them", WRONG_USE)
    _tell(f"key {options.prefix} is revoked")
    return DONE


def _export(options: argparse.Namespace) -> int:
    # Imported here: the app's queries and pool would make every other command start later.
    from .errors import Refusal, WrongParameters
    from .files import ExportError, Progress

    progress = Progress(sys.stderr)
    try:
        count = _export_to(options, progress)
    except ExportError as error:
        return _complain(str(error), WRONG_USE)
    except WrongParameters as wrong:
        for name, sentences in wrong.body.items():
            _tell(f"--{name.replace('_', '-')}: {' '.join(sentences)}")
        return WRONG_USE
    except Refusal as refusal:
        if isinstance(refusal.__cause__, psycopg.errors.QueryCanceled):
            return _complain("a read took longer than DAYBOOK_STATEMENT_TIMEOUT allows", WRONG_USE)
        if refusal.__cause__ is not None:
            raise refusal.__cause__ from None
        return _complain(str(refusal.body["detail"]), WRONG_USE)
    except psycopg.errors.InvalidParameterValue:
        # There is no role to read as.
        return _complain(NOT_INSTALLED, WRONG_USE)
    except asyncio.CancelledError:
        return ENDED
    finally:
        progress.clear()
    where = "" if options.output == "-" else f" to {_escaped(options.output)}"
    _tell(f"exported {count} entries of {_escaped(options.workspace)}{where}")
    return DONE


def _export_to(options: argparse.Namespace, on_progress: Callable[[int, int], object]) -> int:
    from .files import Order, export, quiet, whole_file

    settings = _settings()
    path = None if options.output == "-" else Path(options.output)
    with whole_file(path, replaces=options.force) if path else nullcontext(_StandardOutput()) as file:
        with connect(settings.conninfo) as connection:
            connection.execute("set local role audit_reader")
            row = connection.execute("select session_user from audit.retention_days()").fetchone()
        assert row is not None
        query = tuple((name, value) for name in EXPORT_HELP for value in getattr(options, name))
        order = Order(options.workspace, row[0], options.name or row[0], options.format, options.gzip, query)
        with quiet():
            return asyncio.run(export(settings, order, file.write, on_progress))


class _StandardOutput:
    """Standard output for bytes. Raises OutputError, as _print does."""

    def write(self, piece: bytes) -> None:
        if sys.stdout is None:
            raise OutputError("it is closed")
        try:
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
        except OSError as error:
            _give_standard_output_up()
            raise OutputError(error.strerror) from error


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


def _overlap(text: str) -> timedelta:
    span = re.fullmatch(r"([0-9]{1,5})(min|h|d)|0", text)
    if span is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no span of time such as 24h, 7d or 30min, or 0")
    return timedelta(minutes=int(span[1] or 0) * {"min": 1, "h": 60, "d": 1440}[span[2] or "min"])


def _text(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("it is not UTF-8") from None
    return text


def _workspace(text: str) -> str:
    if len(_text(text).encode("utf-8")) > LONGEST_WORKSPACE:
        raise argparse.ArgumentTypeError(f"it is longer than {LONGEST_WORKSPACE} bytes")
    return text


def _name(text: str) -> str:
    if len(_text(text)) > LONGEST_NAME:
        raise argparse.ArgumentTypeError(f"it is longer than {LONGEST_NAME} characters")
    return text


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no moment such as 2026-03-14 or 2026-03-14T09:30:00Z") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _entry_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no entry's id, a UUID") from None


def _prefix(text: str) -> str:
    try:
        return keys.parse_prefix(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _expiry(text: str) -> object:
    try:
        return keys.parse_expiry(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _print(*lines: str) -> None:
    """Print what a script needs and see it out. Raises OutputError."""
    if sys.stdout is None:
        raise OutputError("it is closed")
    try:
        print(*lines, sep="\n", end="\n" if lines else "", flush=True)
    except OSError as error:
        _give_standard_output_up()
        raise OutputError(error.strerror) from error


def _tell(sentence: str) -> None:
    # Nobody may be there to be told.
    with suppress(OSError):
        print(f"daybook: {sentence}", file=sys.stderr, flush=True)


def _complain(sentence: str, code: int) -> int:
    _tell(sentence)
    return code


if __name__ == "__main__":
    sys.exit(main())
