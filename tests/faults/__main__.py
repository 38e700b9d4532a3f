"""`make faults`: kill -9 under writers, a line for each round, exit code 1 when the log is not what committed."""

import argparse
import os
import random
import sys

from daybook.postgres import find_server
from tests.faults.rounds import OPEN_NEEDED, Round, run

# Problems of a round that are printed: where one thing is wrong, everything after it is.
SHOWN = 20
HEADING = "round  killed      after  committed  open  in doubt  (kept)  log's entries  recovered in"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--rounds", type=int, default=50, help="rounds that count (50)")
    parser.add_argument("--writers", type=int, default=16, help=f"writers at once, {OPEN_NEEDED} or more (16)")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="of what is random but the timing")
    options = parser.parse_args()
    version = os.environ.get("PG")
    server = find_server(int(version) if version else None)
    print(f"{server}; {options.writers} writers; seed {options.seed}\n{HEADING}", flush=True)
    done: list[Round] = []
    for round_ in run(server, options.rounds, options.writers, options.seed):
        done.append(round_)
        print(line(round_), flush=True)
    counted = [round_ for round_ in done if round_.counts]
    problems = sum(len(round_.problems) for round_ in done)
    print(
        f"{len(counted)} rounds counted ({len(done) - len(counted)} did not):"
        f" {sum(round_.committed for round_ in done)} transactions committed,"
        f" {sum(round_.open for round_ in done)} were open,"
        f" {sum(round_.in_doubt for round_ in done)} in doubt ({sum(round_.kept for round_ in done)} of them kept);"
        f" {done[-1].entries} entries; {problems} problems"
    )
    return 1 if problems else 0


def line(done: Round) -> str:
    """A round as a line of the table, and its first problems below."""
    text = (
        f"{done.number:5}  {done.kill:<10} {done.seconds:4.2f} s  {done.committed:9}  {done.open:4}  {done.in_doubt:8}"
        f"  {done.kept:6}  {done.entries:13}  {done.recovery:10.2f} s{'' if done.counts else '  (does not count)'}"
    )
    more = [f"and {len(done.problems) - SHOWN} more"] if len(done.problems) > SHOWN else []
    return "\n".join([text, *(f"       {problem}" for problem in [*done.problems[:SHOWN], *more])])


if __name__ == "__main__":
    sys.exit(main())
