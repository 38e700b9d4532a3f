"""`make faults`: faults under writers, a line for each round, a table by kind; exit code 1 for a problem."""

import argparse
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Sequence

from daybook.postgres import find_server
from tests.faults.kinds import KINDS
from tests.faults.rounds import OPEN_NEEDED, Round, run

# Problems of a round that are printed: where one thing is wrong, everything after it is.
SHOWN = 20
HEADING = "kind        round   after  committed  open  in doubt  (kept)  log's entries  examined in  what was struck"
TABLE = "kind        counted  not  open at the fault  committed  in doubt  (kept)  entries compared  problems"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"of {', '.join(KINDS)} (all)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each kind that count (5)")
    parser.add_argument("--writers", type=int, default=16, help=f"writers at once, {OPEN_NEEDED} or more (16)")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="of what is random but the timing")
    parser.add_argument("--list", action="store_true", help="print the kinds, and do nothing")
    options = parser.parse_args()
    kinds = options.kinds.split(",")
    if unknown := [name for name in kinds if name not in KINDS]:
        parser.error(f"no such kind: {', '.join(unknown)}; there are {', '.join(KINDS)}")
    if options.list:
        print(*(described(name) for name in kinds), sep="\n")
        return 0
    version = os.environ.get("PG")
    server = find_server(int(version) if version else None)
    print(f"{server}; {options.writers} writers; seed {options.seed}\n{HEADING}", flush=True)
    for name in kinds:
        if reason := KINDS[name].hindrance():
            print(f"{name:<10}  left out: {reason}", flush=True)
    done: list[Round] = []
    # Whoever ends it wants the table.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for round_ in run(server, kinds, options.rounds, options.writers, options.seed):
            done.append(round_)
            print(line(round_), flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    print(table(done))
    return 1 if any(round_.problems for round_ in done) else 0


def described(name: str) -> str:
    kind = KINDS[name]
    checked = f"\n  asked besides: {kind.checked}" if kind.checked else ""
    return f"{name}: {kind.does}\n  counts when {kind.counts}{checked}"


def line(done: Round) -> str:
    """A round as a line, and its first problems below."""
    text = (
        f"{done.kind:<10}  {done.number:5}  {done.seconds:4.2f} s  {done.committed:9}  {done.open:4}  {done.in_doubt:8}"
        f"  {done.kept:6}  {done.entries:13}  {done.examined_in:9.2f} s  {done.way}"
        f"{f'  (does not count: {done.void})' if done.void else ''}"
    )
    more = [f"and {len(done.problems) - SHOWN} more"] if len(done.problems) > SHOWN else []
    return "\n".join([text, *(f"       {problem}" for problem in [*done.problems[:SHOWN], *more])])


def table(rounds: Sequence[Round]) -> str:
    """All rounds by kind, with why some did not count. Entries are counted once, in the round that they came in."""
    lines = [TABLE]
    for name in [*(name for name in KINDS if any(done.kind == name for done in rounds)), "all"]:
        mine = [done for done in rounds if name in (done.kind, "all")]
        counted = [done for done in mine if done.counts]
        lines.append(
            f"{name:<10}  {len(counted):7}  {len(mine) - len(counted):3}  {sum(done.open for done in counted):17}"
            f"  {sum(done.committed for done in mine):9}  {sum(done.in_doubt for done in mine):8}"
            f"  {sum(done.kept for done in mine):6}  {sum(done.witnessed for done in mine):16}"
            f"  {sum(len(done.problems) for done in mine):8}"
        )
        if name != "all":
            reasons = Counter("too few transactions open" if "open" in done.void else done.void for done in mine)
            lines += [f"            {number} did not count: {why}" for why, number in reasons.items() if why]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
