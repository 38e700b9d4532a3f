"""Run the replay test with fresh seeds until the time is over: `make soak`, or `python -m tests.soak --minutes 60`.

It must not go on after a failure: the seed and the plan that it prints are what one wants to look at.
"""

import argparse
import os
import re
import secrets
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from daybook.postgres import find_servers

EXAMPLES = 400


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60, help="how long (default: 60)")
    options = parser.parse_args()
    end = time.monotonic() + options.minutes * 60
    versions = sorted({server.version for server in find_servers()})
    versions = sorted({versions[0], versions[-1]})
    with ThreadPoolExecutor(len(versions)) as pool:
        results = list(pool.map(lambda version: _rounds(version, end), versions))
    for version, (examples, failure) in zip(versions, results, strict=True):
        print(f"PostgreSQL {version}: {examples} plans{', then a failure' if failure else ', no failure'}")
        if failure:
            print(failure)
    return int(any(failure for _, failure in results))


def _rounds(version: int, end: float) -> tuple[int, str | None]:
    """Run rounds on one server; return how many plans were carried out, and the output of the round that failed."""
    examples = 0
    while time.monotonic() < end:
        seed = secrets.randbits(64)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_replay.py"]
        environment = {**os.environ, "PG": str(version), "TESTS_REPLAY_EXAMPLES": str(EXAMPLES)}
        done = subprocess.run(
            [*command, f"--hypothesis-seed={seed}"], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode or not re.search(r"\b1 passed", done.stdout):
            return examples, f"seed {seed}\n{done.stdout}{done.stderr}"
        examples += EXAMPLES
        print(f"PostgreSQL {version}: seed {seed}, {EXAMPLES} plans, {examples} in all", file=sys.stderr, flush=True)
    return examples, None


if __name__ == "__main__":
    sys.exit(main())
