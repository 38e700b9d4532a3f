"""The kinds of fault: what each does, when a round of it counts, and what is asked beside what all are asked.

It must not decide whether the log is right; scene.examine does.
"""

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psycopg

from daybook import witness
from tests.exporting import CSV, NDJSON
from tests.faults import processes
from tests.faults.asking import HEALTH, Asking, ask, judge_file
from tests.faults.comparison import BY_SERVER
from tests.faults.ledger import Change
from tests.faults.proxy import Proxy
from tests.faults.scene import DATABASE, Scene, value
from tests.faults.writers import Writer

Strike = Callable[[], str]


class Kind(NamedTuple):
    """A kind of fault. `fault` sets the scene and gives what strikes, which says what exactly was struck."""

    does: str
    counts: str
    checked: str
    fault: Callable[[Scene], AbstractContextManager[Strike]]
    # Whether upkeep goes on beside the writers; else the fault has one of its own.
    upkeep: bool = True
    # Why it cannot be tried on this machine.
    hindrance: Callable[[], str] = lambda: ""


# Killed


@contextmanager
def server_killed(scene: Scene) -> Iterator[Strike]:
    def strike() -> str:
        """Kill the postmaster and all its children in any order. It is halted first: it neither sees nor forks."""
        postmaster = processes.postmaster(scene.cluster)
        os.kill(postmaster, signal.SIGSTOP)
        victims = [postmaster, *processes.children(postmaster)]
        scene.chance.shuffle(victims)
        scene.stop.set()
        for victim in victims:
            processes.kill(victim)
        processes.wait_until_gone(victims)
        return "all processes"

    yield strike
    # The lock on the folder is all that is left to give up. The socket's lock would count for as long as nobody has
    # asked for the killed postmaster's end.
    scene.cluster.stop()
    for file in scene.cluster.socket_folder.glob(".s.PGSQL.*"):
        file.unlink()
    scene.cluster.start()


@contextmanager
def backend_killed(scene: Scene) -> Iterator[Strike]:
    def strike() -> str:
        """Kill one backend that writes: the postmaster ends all others and recovers by itself."""
        # Upkeep's would end by itself.
        backends = [writer.connection.info.backend_pid for writer in scene.writers if writer.connection]
        children = processes.children(processes.postmaster(scene.cluster))
        scene.stop.set()
        processes.kill(scene.chance.choice(backends))
        processes.wait_until_gone(children)
        return "a backend"

    yield strike


def _backends(scene: Scene) -> list[int]:
    query = (
        "select pid from pg_stat_activity where datname = %s and pid <> pg_backend_pid()"
        " and backend_type = 'client backend' order by backend_start"
    )
    with psycopg.connect(scene.cluster.url()) as connection:
        return [pid for (pid,) in connection.execute(query, [DATABASE])]


@contextmanager
def app_killed(scene: Scene) -> Iterator[Strike]:
    service, port = processes.app(scene.cluster.url(DATABASE, "faults_reader"), scene.folder / "app.log")
    with service:
        service.wait_until_ready()
        before = _exports(scene)
        with Asking(port) as asking:

            def strike() -> str:
                scene.eventually("the app answers", lambda: asking.answers["200"] > 0)
                scene.note_open()
                service.kill()
                scene.go_on()
                service.start()
                scene.go_on()
                return f"the app, {_shown(asking.answers)}"

            yield strike
            scene.eventually("the app answers after it was killed", lambda: _is_well(port))
        scene.problems += asking.problems
        if not asking.answers["200"]:
            scene.void = "no request was answered"
        if (recorded := _exports(scene) - before) < asking.exports:
            scene.problems.append(f"{asking.exports} exports began to be answered, and {recorded} are recorded")


def _shown(answers: dict[str, int]) -> str:
    return ", ".join(f"{number} {what}" for what, number in sorted(answers.items()))


def _exports(scene: Scene) -> int:
    with scene.connected() as connection:
        return int(value(connection, "select count(*) from audit.entry where event = 'log_exported'"))


def _is_well(port: int) -> bool:
    with suppress(OSError, http.client.HTTPException):
        return ask(port, HEALTH)[0] == 200
    return False


@contextmanager
def upkeep_killed(scene: Scene) -> Iterator[Strike]:
    with scene.connected() as connection:
        # A day to make, so that there is more to do than to move the watermark.
        connection.execute("update audit.upkeep set days_ahead = days_ahead + 1")
    # Seldom asleep: a kill shall meet it at work.
    arguments = ["maintain", "--every", "10ms", "--json"]
    service = processes.command(arguments, scene.environment, scene.folder / "upkeep.log")
    with service:
        service.wait_for_output()
        yield _kill_service(scene, service)


@contextmanager
def sealing_killed(scene: Scene) -> Iterator[Strike]:
    with processes.sealing(scene.environment, scene.folder / "sealing.log") as service:
        service.wait_until_ready()
        yield _kill_service(scene, service)


def _kill_service(scene: Scene, service: processes.Service) -> Strike:
    def strike() -> str:
        scene.note_open()
        if not service.is_running:
            scene.problems.append(f"{service.arguments} ended by itself: {service.log.read_text()[-500:]}")
        service.kill()
        scene.go_on()
        return "its process"

    return strike


# Disk full


# More than any cluster of a run writes; what is not used takes nothing.
ROOM = "2g"


def no_mount() -> str:
    """Why no small file system can be mounted here."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a small file system is mounted by root on Linux"
    folder = Path("/tmp") / f"pg-daybook-mount-{os.getpid()}"
    folder.mkdir()
    try:
        _run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder))
        _run("umount", str(folder))
    except (OSError, subprocess.CalledProcessError):
        return "mounting a file system is not allowed here"
    finally:
        folder.rmdir()
    return ""


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@contextmanager
def disk_full(scene: Scene) -> Iterator[Strike]:
    folder = scene.folder / "small"
    folder.mkdir()
    _run("mount", "-t", "tmpfs", "-o", f"size={ROOM},mode=0700", "tmpfs", str(folder))
    try:
        owner = scene.cluster.data.stat()
        os.chown(folder, owner.st_uid, owner.st_gid)
        with scene.connected() as connection:
            connection.execute(f"create tablespace small location '{folder}'".encode())
            _move_log(connection, "pg_default", "small")
        scene.forgive(psycopg.errors.DiskFull)

        def strike() -> str:
            scene.note_open()
            before = scene.failed()
            _fill(folder, scene.chance.randrange(0, 300_000))
            end = time.monotonic() + 3
            while scene.failed() == before and time.monotonic() < end:
                time.sleep(0.01)
            if scene.failed() == before:
                scene.void = "no write met the full disk"
            scene.go_on()
            failed = scene.failed() - before
            _run("mount", "-o", f"remount,size={ROOM}", str(folder))
            committed = scene.committed()
            scene.eventually("writers go on when there is room", lambda: scene.committed() > committed + 5)
            return f"{failed} writes refused"

        yield strike
        with scene.connected() as connection:
            _move_log(connection, "small", "pg_default")
            # What is dropped within a checkpoint's reach is a file until the next.
            connection.execute("checkpoint")
            connection.execute("drop tablespace small")
    finally:
        _run("umount", "--lazy", str(folder))
        folder.rmdir()


def _fill(folder: Path, room: int) -> None:
    """Leave so many bytes of room. What is less than is used is refused, and more is used all the time."""
    while True:
        with suppress(subprocess.CalledProcessError):
            _run("mount", "-o", f"remount,size={shutil.disk_usage(folder).used + room}", str(folder))
            return


def _move_log(connection: psycopg.Connection[object], source: str, target: str) -> None:
    """As docs/operations.md has it."""
    for what in ("table", "index"):
        connection.execute(
            f"alter {what} all in tablespace {source} owned by audit_owner set tablespace {target}".encode()
        )


# Connections


@contextmanager
def connection_lost(scene: Scene) -> Iterator[Strike]:
    proxy = Proxy(scene.cluster.port)
    scene.url = f"postgresql://postgres@127.0.0.1:{proxy.port}/{DATABASE}"
    scene.forgive(psycopg.OperationalError)

    def strike() -> str:
        way = scene.chance.choice(["cut by a proxy", "closed by the client", "pg_terminate_backend"])
        share = scene.chance.choice([0.3, 1.0])
        scene.note_open()
        if way == "cut by a proxy":
            lost = proxy.cut(share, scene.chance)
        elif way == "closed by the client":
            lost = sum(_close(writer) for writer in scene.writers if scene.chance.random() < share)
        else:
            with psycopg.connect(scene.cluster.url(DATABASE), autocommit=True) as connection:
                victims = [pid for pid in _backends(scene) if pid != connection.info.backend_pid]
                for pid in victims:
                    if scene.chance.random() < share:
                        connection.execute("select pg_terminate_backend(%s)", [pid])
            lost = len(victims)
        if not lost:
            scene.void = "no connection was lost"
        scene.go_on(0.3, 0.8)
        return f"{way}, {share:.0%}"

    try:
        yield strike
    finally:
        proxy.close()


def _close(writer: Writer) -> bool:
    """Close a writer's socket under it, as a machine that goes away does."""
    connection = writer.connection
    with suppress(OSError, psycopg.Error):
        if connection:
            with socket.socket(fileno=os.dup(connection.fileno())) as its_socket:
                its_socket.shutdown(socket.SHUT_RDWR)
            return True
    return False


# Cancelled


@contextmanager
def cancelled(scene: Scene) -> Iterator[Strike]:
    scene.forgive(psycopg.errors.QueryCanceled)
    by_timeout = scene.chance.random() < 0.5
    milliseconds = scene.chance.randint(4, 40)
    if by_timeout:
        scene.url += f"&options=-c%20statement_timeout%3D{milliseconds}"

    def strike() -> str:
        scene.note_open()
        if by_timeout:
            scene.go_on()
        else:
            with psycopg.connect(scene.cluster.url(DATABASE), autocommit=True) as connection:
                backends = [pid for pid in _backends(scene) if pid != connection.info.backend_pid]
                end = time.monotonic() + scene.chance.uniform(0.2, 0.6)
                while time.monotonic() < end:
                    connection.execute("select pg_cancel_backend(%s)", [scene.chance.choice(backends)])
                    time.sleep(scene.chance.uniform(0, 0.01))
            scene.go_on()
        if not scene.failed():
            scene.void = "no statement was cancelled"
        way = f"statement_timeout {milliseconds} ms" if by_timeout else "pg_cancel_backend"
        return f"{way}, {scene.failed()} statements"

    yield strike


# The clock


def no_clock() -> str:
    """Why the server's clock cannot be set here."""
    return "" if faketime() else "the server's clock is set by Debian's package faketime, which is not here"


def faketime() -> Path | None:
    """The library that gives a process another clock, where it is installed."""
    return next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)


DAY = 86_400
# While a server waits, its handler of alarms sees the machine's time, whatever libfaketime shows it elsewhere. Were its
# clock ahead of that, no time-out would end and no deadlock be found; behind it, each alarm is taken for due.
BEHIND = -400.0 * DAY


class Clock:
    """The server's clock: seconds from the machine's, in a file that it reads whenever it asks the time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = BEHIND
        self.latest = self.now
        self.set(BEHIND)

    @property
    def now(self) -> float:
        return time.time() + self.offset

    def set(self, offset: float) -> None:
        """Step to the machine's time and so many seconds."""
        self.latest = max(self.latest, self.now)
        self.offset = offset
        new = self.path.with_suffix(".new")
        new.write_text(f"{offset:+.6f}\n")
        new.chmod(0o644)
        new.rename(self.path)

    def set_right(self) -> None:
        """Step to where it would be had it never gone back."""
        self.latest = max(self.latest, self.now)
        if self.now <= self.latest:
            self.set(self.offset + self.latest - self.now + 0.5)

    def environment(self) -> dict[str, str]:
        """That of the server whose clock this is."""
        return {
            "LD_PRELOAD": str(faketime()),
            "FAKETIME_TIMESTAMP_FILE": str(self.path),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }


@contextmanager
def clock_stepped(scene: Scene) -> Iterator[Strike]:
    clock = scene.clock
    assert clock
    scene.order = BY_SERVER

    def strike() -> str:
        way = scene.chance.choice(["backwards", "over midnight", "over midnight and back"])
        scene.note_open()
        seconds = 10 ** scene.chance.uniform(-2, 4)
        if way == "backwards":
            clock.set(clock.offset - seconds)
            scene.go_on()
            return f"backwards by {seconds:.2f} s"
        until_midnight = DAY - clock.now % DAY
        clock.set(clock.offset + until_midnight - 0.15)
        time.sleep(0.15)
        scene.go_on(0.1, 0.3)
        if way == "over midnight and back":
            clock.set(clock.offset - scene.chance.uniform(0.3, 2))
            scene.go_on(0.1, 0.3)
        return way

    yield strike
    clock.set_right()


# Memory


LARGE, LARGE_BYTES = "scratch_large", 3_000_000


@contextmanager
def memory_limited(scene: Scene) -> Iterator[Strike]:
    if not scene.others:
        _write_large(scene)
    reader = scene.cluster.url(DATABASE, "faults_reader")
    service, port = processes.app(reader, scene.folder / "app.log")
    output = scene.folder / f"export-{scene.chance.randrange(2**32)}.ndjson"
    export = processes.command(
        ["export", "--workspace", "acme", "--output", str(output)],
        {"DAYBOOK_DATABASE_URL": reader},
        scene.folder / "export.log",
    )
    with service:
        service.wait_until_ready()
        with Asking(port, (NDJSON, CSV, NDJSON)) as asking:

            def strike() -> str:
                scene.note_open()
                # Between what fails at once and what an export needs beside others.
                service.limit_memory(scene.chance.randrange(0, 24_000_000))
                export.start()
                # Not while it is being imported: Python itself would end.
                begun = f".{output.name}.*"
                scene.eventually("it exports", lambda: any(scene.folder.glob(begun)) or not export.is_running)
                time.sleep(scene.chance.uniform(0, 0.2))
                with suppress(ProcessLookupError, IndexError):
                    export.limit_memory(scene.chance.choice([0, 1_000_000, 8_000_000]))
                scene.go_on(0.2, 0.5)
                return "memory"

            try:
                yield strike
                code = export.end()
            finally:
                export.kill()
        was_running = service.is_running
    scene.problems += asking.problems
    if code == 0:
        problem = judge_file(output) if output.exists() else "exit code 0, and no file"
        scene.problems += [f"daybook export: {problem}"] if problem else []
    elif output.exists():
        scene.problems.append(f"daybook export: exit code {code}, and there is a file")
    output.unlink(missing_ok=True)
    said = "".join(f", {text[:100]!r}" for text in export.log.read_text().strip().splitlines()[-1:])
    export.log.unlink()
    ended = "" if was_running else ", it ended"
    scene.told = f"export: exit code {code}{said}; app: {_shown(asking.answers)}{ended}"


def _write_large(scene: Scene) -> None:
    """Three large values in the log, in a table of their own; what they must leave stands in a ledger of its own."""
    with scene.connected() as connection:
        connection.execute(f"create table {LARGE} (id bigint primary key, workspace_id text, title text)".encode())
        connection.execute(
            f"select audit.enable_tracking('{LARGE}', max_value_bytes => {2 * LARGE_BYTES + 1000})".encode()
        )
        connection.execute(f"alter table {LARGE} owner to audit_writer".encode())
        witness.start(connection, lambda _: None)
        writer = Writer(-1, 0)
        transaction = writer.begin(connection)
        for number in range(3):
            text = scene.chance.randbytes(LARGE_BYTES // 2).hex()
            row = {"id": number, "workspace_id": "acme", "title": text}
            connection.execute(f"insert into public.{LARGE} values (%(id)s, %(workspace_id)s, %(title)s)".encode(), row)
            transaction.write([Change(LARGE, None, row)])
        writer.commit(connection, transaction)
    scene.others.append(writer)


KINDS: dict[str, Kind] = {
    "server": Kind(
        "kill -9 of all processes of the server, in any order",
        "8 transactions were open",
        "",
        server_killed,
    ),
    "backend": Kind(
        "kill -9 of one backend that writes: the postmaster ends the others and recovers",
        "8 transactions were open",
        "",
        backend_killed,
    ),
    "app": Kind(
        "kill -9 of `daybook serve` under lists and exports, started again beside the writers",
        "8 transactions were open, a request was answered",
        "the app answers again; no answer that looks whole is wrong; each export that began to be answered is recorded",
        app_killed,
    ),
    "upkeep": Kind(
        "kill -9 of `daybook maintain --every 10ms`, with a day to make",
        "8 transactions were open",
        "",
        upkeep_killed,
        upkeep=False,
    ),
    "sealing": Kind(
        "kill -9 of `daybook seal`, which is run again and again",
        "8 transactions were open",
        "",
        sealing_killed,
        upkeep=False,
    ),
    "disk": Kind(
        "the file system of the log's tablespace is full to up to 300 kB, and after a while has room again",
        "8 transactions were open, a write was refused for want of room",
        "writers commit again when there is room",
        disk_full,
        hindrance=no_mount,
    ),
    "connection": Kind(
        "connections of some or all writers are cut by a proxy, closed by the client, or ended by pg_terminate_backend",
        "8 transactions were open, a connection was lost",
        "",
        connection_lost,
    ),
    "cancel": Kind(
        "statements are cancelled by pg_cancel_backend, or by a statement_timeout of 4 to 40 ms",
        "8 transactions were open, a statement was cancelled",
        "",
        cancelled,
    ),
    "clock": Kind(
        "the server's clock steps back by 10 ms to 3 hours, over midnight, or over midnight and back",
        "8 transactions were open",
        "the log in the order of the server's own numbers; the clock is set right before upkeep is asked",
        clock_stepped,
        hindrance=no_clock,
    ),
    "memory": Kind(
        "`daybook serve`, exporting values of 3 MB, gets 0 to 24 MB more memory at most, `daybook export` 0, 1 or 8",
        "8 transactions were open",
        "an answer or a file that looks whole is right; another status than 200 and 503 is a problem",
        memory_limited,
    ),
}
