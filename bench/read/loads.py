"""What a process, and the backends of its login, spent in CPU time and memory (proc(5)).

It must not start or ask anything.
"""

from __future__ import annotations

from pathlib import Path

from ..servers import Connection

READER = "bench_reader"


def cpu_of_process(process_id: int) -> int:
    """The CPU time of all threads of a process so far, in nanoseconds."""
    threads = Path(f"/proc/{process_id}/task").glob("*/schedstat")
    return sum(int(path.read_text().split()[0]) for path in threads)


def cpu_of_readers(connection: Connection) -> dict[int, int]:
    """The CPU time so far of each backend that serves the readers' login, in nanoseconds."""
    found = connection.execute("select pid from pg_stat_activity where usename = %s", [READER]).fetchall()
    spent: dict[int, int] = {}
    for (process_id,) in found:
        try:
            spent[process_id] = cpu_of_process(process_id)
        except FileNotFoundError:
            # It ended meanwhile.
            continue
    return spent


def spent_since(before: dict[int, int], after: dict[int, int]) -> int:
    """What the backends spent in between; those that ended in between are left out."""
    return sum(spent - before.get(process_id, 0) for process_id, spent in after.items())


def memory(process_id: int) -> int:
    """The resident memory of a process, in bytes."""
    return _status(process_id, "VmRSS")


def forget_peak(process_id: int) -> None:
    """Begin the peak of a process's memory anew."""
    Path(f"/proc/{process_id}/clear_refs").write_text("5")


def peak_memory(process_id: int) -> int:
    """The most resident memory that a process had since `forget_peak`, in bytes."""
    return _status(process_id, "VmHWM")


def _status(process_id: int, name: str) -> int:
    for line in Path(f"/proc/{process_id}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)
