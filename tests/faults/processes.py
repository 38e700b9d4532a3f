"""Processes that rounds start, find and kill: those of the cluster, and the product's own commands.

It must not send a signal to any process but those of the cluster that a round made, and those that it started itself.
"""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Self

from daybook.postgres import Cluster, free_port

# `daybook seal` once takes longer to start than to seal: here the command runs again and again in one process.
SEALING = """
from daybook.commands import main
print("ready", flush=True)
while main(["seal"]) == 0:
    pass
"""
# The app without an address of its own choosing, as `daybook serve` runs it.
SERVING = """
import os, sys
from daybook.app import serve
from daybook.settings import Settings
serve(Settings.from_environment(os.environ), "127.0.0.1", int(sys.argv[1]), lambda: print("ready", flush=True))
"""


class Service:
    """A process of the product's, started again after it was killed; what it says goes to a file."""

    def __init__(self, arguments: list[str], environment: Mapping[str, str], log: Path) -> None:
        self.arguments = arguments
        self.environment = {**os.environ, "PYTHONPATH": "api", **environment}
        self.log = log
        self.process: subprocess.Popen[str] | None = None
        self._errors: IO[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it; whoever needs to know when it is at work asks `wait_until_ready`."""
        self._errors = self.log.open("a")
        self.process = subprocess.Popen(
            self.arguments, env=self.environment, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )

    def wait_until_ready(self) -> None:
        """Return once it has said so."""
        assert self.process
        assert self.process.stdout
        if self.process.stdout.readline() != "ready\n":
            raise RuntimeError(f"{self.arguments} did not start: {self.log.read_text()[-2000:]}")

    def wait_for_output(self) -> None:
        """Return once it has said anything, and read the rest that it says away."""
        assert self.process
        assert self.process.stdout
        if not self.process.stdout.readline():
            raise RuntimeError(f"{self.arguments} did not start: {self.log.read_text()[-2000:]}")
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def end(self) -> int:
        """Wait for its end; return its exit code, less than 0 for a signal."""
        assert self.process
        return self.process.wait(120)

    def kill(self) -> None:
        """Kill -9, and wait for its end. Raises nothing when it has ended already."""
        if self.process:
            with suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGKILL)
            self.process.wait(30)
            self.process = None
        if self._errors:
            self._errors.close()
            self._errors = None

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def limit_memory(self, more: int) -> None:
        """Let its address space grow by so many bytes and no further (RLIMIT_AS, getrlimit(2))."""
        assert self.process
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + more
        resource.prlimit(self.process.pid, resource.RLIMIT_AS, (limit, limit))


def app(url: str, log: Path) -> tuple[Service, int]:
    """`daybook serve` on a free port of 127.0.0.1, not yet started, and the port."""
    port = free_port()
    return Service([sys.executable, "-c", SERVING, str(port)], {"DAYBOOK_DATABASE_URL": url}, log), port


def command(arguments: list[str], environment: Mapping[str, str], log: Path) -> Service:
    """A command `daybook …`, not yet started."""
    return Service([sys.executable, "-m", "daybook", *arguments], environment, log)


def sealing(environment: Mapping[str, str], log: Path) -> Service:
    """`daybook seal` again and again, not yet started."""
    return Service([sys.executable, "-c", SEALING], environment, log)


# The cluster's


def postmaster(cluster: Cluster) -> int:
    return int((cluster.data / "postmaster.pid").read_text().splitlines()[0])


def children(parent: int) -> list[int]:
    """The processes that another one started."""
    lines = ((int(path.name), _stat(int(path.name))) for path in Path("/proc").iterdir() if path.name.isdigit())
    return [process for process, stat in lines if stat and int(stat[1]) == parent]


def _stat(process: int) -> list[str] | None:
    """The fields of /proc/<pid>/stat from the state on, None when the process is gone (proc(5))."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def kill(process: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def wait_until_gone(processes: list[int]) -> None:
    """Wait until none runs any more; one whose end nobody has asked for yet (Z) runs no more either."""
    end = time.monotonic() + 30
    while any((stat := _stat(process)) and stat[0] != "Z" for process in processes):
        if time.monotonic() > end:
            raise RuntimeError("a killed server process does not end")
        time.sleep(0.005)
