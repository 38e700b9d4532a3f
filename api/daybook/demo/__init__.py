"""The demo: an embedded PostgreSQL with a sample application and weeks of its past, the app and the page.

It must not write anything once it serves, nor print anything on standard output but the values and the lines to try.
"""

from __future__ import annotations

import shlex
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import psycopg

from ..app import StartError, listen, serve
from ..credentials import key_secret
from ..keys import Role, create_key
from ..postgres import Cluster, PostgresError, Server, find_server, free_port
from ..schema import SchemaError, migrate
from ..settings import Settings
from .filling import DATABASE, DBA, OWNER, READER, fill
from .folder import Folder, State, default_folder, open_folder
from .progress import tell
from .story import FIRST_WORKSPACE, OTHER_WORKSPACE

HOST = "127.0.0.1"
CLUSTER_SETTINGS: dict[str, str | int] = {"timezone": "UTC", "max_connections": 60, "log_min_messages": "warning"}


def run(port: int = 8000, data: Path | None = None, fresh: bool = False) -> int:
    """Run the demo until a signal to stop and return the exit code: 0 stopped, 2 it could not start, with a sentence.

    `port` 0 takes a free one. `data` is the folder that keeps the database; `fresh` begins it again.
    """
    try:
        with _stopped_by_signals():
            _run(port, data or default_folder(), fresh)
    except KeyboardInterrupt:
        tell("Stopped; what is not complete is begun again at the next start.")
    except (PostgresError, SchemaError, StartError) as error:
        tell(f"daybook: {error}")
        return 2
    return 0


def _run(port: int, path: Path, fresh: bool) -> None:
    # A port that is taken is said before anything is made.
    port = port or free_port()
    listen(HOST, port).close()
    server = find_server()
    with open_folder(path, fresh=fresh) as folder:
        if not folder.state.is_complete:
            tell(f"Making a database with {server} in {folder.path}")
        cluster = Cluster(
            server, folder.path, tcp="scram-sha-256", port=_free(folder.state.database_port), settings=CLUSTER_SETTINGS
        )
        try:
            cluster.start()
            _prepare(cluster, folder)
            values = _values(cluster, folder.state, f"http://{HOST}:{port}")
            examples = _examples(server, values)
            settings = Settings(database_url=cluster.url(DATABASE, READER))
            serve(settings, HOST, port, on_ready=lambda: _print_ready(values, examples, folder))
        finally:
            _ignore_signals()
            cluster.stop()
    tell("Stopped.")


def _prepare(cluster: Cluster, folder: Folder) -> None:
    """Fill a new database, bring an old one up to date, and remember the values that stay."""
    state = folder.state
    if state.is_complete:
        migrate(cluster.url(DATABASE))
    else:
        fill(cluster, state)
    with psycopg.connect(cluster.url(DATABASE), autocommit=True) as superuser:
        superuser.execute("select audit.maintain()")
        # Whoever opens the page finds these keys at its top: they say whose they are.
        superuser.execute(
            "select set_config('audit.actor_id', 'demo', false), set_config('audit.actor_name', 'The demo', false),"
            " set_config('audit.actor_type', 'service', false)"
        )
        state.admin_key = _valid_key(superuser, state.admin_key, FIRST_WORKSPACE, "Demo administrator", "admin")
        state.member_key = _valid_key(superuser, state.member_key, FIRST_WORKSPACE, "Demo member", "member")
        state.other_key = _valid_key(superuser, state.other_key, OTHER_WORKSPACE, "Demo administrator", "admin")
    state.database_port = cluster.port
    state.is_complete = True
    folder.save()


def _valid_key(
    superuser: psycopg.Connection[tuple[object, ...]], kept: str, workspace: str, name: str, role: Role
) -> str:
    """The key of an earlier start, or a new one when there is none that still works."""
    if kept and superuser.execute("select from audit.find_key(%s, %s)", key_secret(kept)).rowcount:
        return kept
    return create_key(superuser, workspace, name, role)


def _values(cluster: Cluster, state: State, url: str) -> dict[str, str]:
    return {
        "URL": url,
        "Database": cluster.url(DATABASE, OWNER, state.owner_password),
        "DBA": cluster.url(DATABASE, DBA, state.dba_password),
        "Admin key": state.admin_key,
        "Member's key": state.member_key,
        "Other workspace's key": state.other_key,
    }


def _examples(server: Server, values: dict[str, str]) -> list[str]:
    """Lines to paste into a shell: what the log holds, what touched one resource, what a member sees, a write."""
    with psycopg.connect(values["DBA"]) as dba:
        row = dba.execute(
            "select resource_id from audit.timeline"
            " where workspace_id = %s and resource_type = 'document' and resource_id is not null"
            " group by 1 having bool_or(event like 'permission%%') order by count(*) desc limit 1",
            [FIRST_WORKSPACE],
        ).fetchone()
    api = f"{values['URL']}/api/v1/notification"
    admin, member = (f"curl -H 'Authorization: Bearer {values[name]}'" for name in ("Admin key", "Member's key"))
    psql = "psql" if shutil.which("psql") else shlex.quote(str(server.bin / "psql"))
    write = "select audit.set_actor('you'); update document set tags = tags || '{tried}' where workspace_id = 'acme'"
    return [
        f"{admin} '{api}/workspace/?page_size=5'",
        f"{admin} '{api}/resource/?resource_id={row[0] if row else ''}&expand=changes,context'",
        f"{member} --include '{api}/workspace/'",
        f"{psql} '{values['Database']}' -c \"{write}\"",
    ]


def _print_ready(values: dict[str, str], examples: list[str], folder: Folder) -> None:
    lines = [*(f"{name}: {value}" for name, value in values.items()), "", *examples]
    try:
        print("\n".join(lines), flush=True)
    except OSError as error:
        raise StartError(f"The values cannot be written to standard output: {error.strerror}.") from error
    tell(f"The page: {values['URL']}/settings/audit-log (sign in with the admin key).")
    tell(f"Ctrl-C stops. The data stays in {folder.path}; --fresh begins again.")


def _free(port: int | None) -> int | None:
    """The port if nobody listens there, so that the database keeps its address from start to start."""
    if port is not None:
        try:
            listen(HOST, port).close()
        except StartError:
            return None
    return port


# Signals: the first one stops everything in order, later ones do not disturb that.

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    def stop(_number: int, _frame: FrameType | None) -> None:
        _ignore_signals()
        raise KeyboardInterrupt

    previous = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in previous.items():
        # nohup asks that the terminal's end be ignored.
        if number != signal.SIGHUP or handler != signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _ignore_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
