"""Folder is where a demo keeps its database, passwords and keys between starts.

It must not take, change or delete a folder that it does not recognise as a demo's, nor what else lies in one.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from ..postgres import PERSISTENT_TEMPORARY_FOLDER, PostgresError

MARKER = "demo.json"
MADE_BY = "daybook demo"
# What a demo and its cluster put into the folder: all that starting afresh deletes.
CONTENTS = (MARKER, "data", "data.new", "socket", "server.log", "postgresql.conf", "pg_hba.conf", "lock")


class FolderError(PostgresError):
    """A sentence that says why a folder cannot be a demo's, and the way out."""


@dataclass(slots=True)
class State:
    """What a demo remembers: whether its past is complete, where its server listens, and the values it prints."""

    made_by: str = MADE_BY
    is_complete: bool = False
    database_port: int | None = None
    owner_password: str = ""
    dba_password: str = ""
    admin_key: str = ""
    member_key: str = ""
    other_key: str = ""


def default_folder() -> Path:
    """Where a demo lives when nobody says: below `XDG_STATE_HOME` (XDG Base Directory Specification), save for root."""
    if os.geteuid() == 0:
        return PERSISTENT_TEMPORARY_FOLDER / "pg-daybook-demo"
    configured = Path(os.environ.get("XDG_STATE_HOME", ""))
    try:
        state = configured if configured.is_absolute() else Path.home() / ".local" / "state"
    except RuntimeError:
        raise FolderError("There is no home folder to keep the demo in; name a folder with --data.") from None
    return state / "pg-daybook" / "demo"


class Folder:
    """A demo's folder, held by this process; `state` is what is remembered there, readable by us alone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = State()

    def save(self) -> None:
        """Write the state, whole or not at all."""
        new = self.path / f"{MARKER}.new"
        new.unlink(missing_ok=True)
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump(asdict(self.state), file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        new.rename(self.path / MARKER)

    def clear(self) -> None:
        """Delete what a demo made here, and remember nothing."""
        for name in CONTENTS:
            content = self.path / name
            if content.is_dir() and not content.is_symlink():
                shutil.rmtree(content)
            elif name != MARKER:
                content.unlink(missing_ok=True)
        # The marker goes last by being written anew: without it the folder would no longer be ours.
        self.state = State()
        self.save()


@contextmanager
def open_folder(path: Path, *, fresh: bool = False) -> Iterator[Folder]:
    """Make a folder or recognise it, and hold it until the block ends.

    A past that is not complete, or `fresh`, leaves it empty but for the marker. Raises FolderError.
    """
    try:
        path = path.expanduser().absolute()
        os.fspath(path).encode("utf-8")
    except RuntimeError:
        raise FolderError(f"{path} names the home folder of nobody here; name another folder with --data.") from None
    except UnicodeEncodeError:
        raise FolderError(f"{path} is not written in UTF-8; name another folder with --data.") from None
    try:
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
        _require_own(path)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise FolderError(f"{path} cannot be used: {error.strerror}. Name another folder with --data.") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderError(
                f"Another demo runs in {path}; stop it first, or name another folder with --data."
            ) from None
        folder = Folder(path)
        try:
            _recognise(folder)
            _end_server_left_behind(path / "data")
            if fresh or not folder.state.is_complete:
                folder.clear()
        except OSError as error:
            raise FolderError(f"{path} cannot be used: {error.strerror}. Name another folder with --data.") from error
        yield folder
    finally:
        os.close(descriptor)


def _require_own(path: Path) -> None:
    status = path.lstat()
    if path.is_symlink() or not path.is_dir():
        raise FolderError(f"{path} is no folder but a link or a file; name another one with --data.")
    if status.st_uid != os.geteuid() or (os.geteuid() == 0 and status.st_mode & 0o022):
        raise FolderError(
            f"{path} belongs to another user, or others may write into it; name another folder with --data."
        )


def _recognise(folder: Folder) -> None:
    names = {content.name for content in folder.path.iterdir()} - {f"{MARKER}.new"}
    if not names:
        return
    try:
        remembered = json.loads((folder.path / MARKER).read_text(encoding="utf-8"))
        ours = remembered["made_by"] == MADE_BY
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        ours = False
    if not ours:
        raise FolderError(
            f"{folder.path} holds files and is no demo's folder: nothing was changed. "
            "Name an empty or a new folder with --data."
        )
    known = {field.name for field in fields(State)}
    folder.state = State(**{name: value for name, value in remembered.items() if name in known})


def _end_server_left_behind(data: Path) -> None:
    """We hold the folder: a server that runs on its data has lost the process that started it."""
    try:
        process_id = int((data / "postmaster.pid").read_text().splitlines()[0])
        command_line = Path(f"/proc/{process_id}/cmdline")
        if command_line.exists() and os.fsencode(data) not in command_line.read_bytes():
            return
        # The server's fast shutdown (manual 18.5).
        os.kill(process_id, signal.SIGINT)
        for _ in range(100):
            time.sleep(0.1)
            os.kill(process_id, 0)
    except (FileNotFoundError, NotADirectoryError, ProcessLookupError, IndexError, ValueError):
        return
    raise FolderError(
        f"The server that an earlier demo left behind in {data.parent} (process {process_id}) does not end."
    )
