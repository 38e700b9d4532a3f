"""One round of nine kinds of fault: the log equals what committed, seals verify, upkeep resumes.

`make faults` has all ten: what scarce memory meets depends too much on the machine.

It must not time anything: which statements a fault meets is chance, what must hold afterwards is not.
"""

import json
from pathlib import Path

import pytest

from daybook.postgres import find_server
from tests.faults.__main__ import line, table
from tests.faults.asking import judge_csv, judge_ndjson
from tests.faults.kinds import KINDS, no_clock, no_mount
from tests.faults.rounds import Round, run

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="processes are found in /proc, which is Linux's"
)
SEED = 1
ALWAYS = ["server", "backend", "app", "upkeep", "sealing", "connection", "cancel"]


def faults(version: int, *kinds: str) -> list[Round]:
    """A round of each that counts; it is shown when the test fails."""
    rounds = list(run(find_server(version), kinds, rounds=1, writers=16, seed=SEED))
    print(*map(line, rounds), table(rounds), sep="\n")
    return rounds


def test_after_each_kind_of_fault_the_log_equals_what_committed(server_version: int) -> None:
    rounds = faults(server_version, *ALWAYS)
    assert [problem for done in rounds for problem in done.problems] == []
    assert sorted(done.kind for done in rounds if done.counts) == sorted(ALWAYS)
    assert sum(done.committed for done in rounds) > 0
    assert all(done.open >= 8 for done in rounds if done.counts)
    assert all(done.witnessed > 0 for done in rounds if done.counts)


@pytest.mark.skipif(no_mount() != "", reason=no_mount())
def test_what_a_full_disk_keeps_from_the_log_is_not_written(server_version: int) -> None:
    rounds = faults(server_version, "disk")
    assert [problem for done in rounds for problem in done.problems] == []
    assert [done.kind for done in rounds if done.counts] == ["disk"]
    assert " writes refused" in rounds[-1].way


@pytest.mark.skipif(no_clock() != "", reason=no_clock())
def test_a_clock_that_steps_costs_no_entry(server_version: int) -> None:
    rounds = faults(server_version, "clock")
    assert [problem for done in rounds for problem in done.problems] == []
    assert [done.kind for done in rounds if done.counts] == ["clock"]


def test_each_kind_says_what_it_does_and_when_it_counts() -> None:
    assert " ".join(KINDS) == "server backend app upkeep sealing disk connection cancel clock memory"
    assert all(kind.does and kind.counts.startswith("8 transactions were open") for kind in KINDS.values())


def test_a_file_that_only_looks_whole_is_seen() -> None:
    line = json.dumps({"id": "1"}).encode() + b"\n"
    digest = "8cc1ee5f7cc94cdc0f0bd5cd3b8e8d6e2f5f1ab7"
    assert "no manifest" in judge_ndjson(line)
    assert "no manifest" in judge_ndjson(line[:-3])
    assert "says" in judge_ndjson(line + json.dumps({"manifest": {"entries": 1, "sha256": digest}}).encode())
    assert judge_csv(b"id,event\r\n1,a\r\n2") == "a row of a CSV is cut"
    assert judge_csv(b"id,event\r\n1,a\r\n1,b\r\n") == "a CSV has an entry twice"
    assert judge_csv(b"id,event\r\n1,a\r\n") == ""
