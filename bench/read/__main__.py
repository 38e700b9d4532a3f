"""`make bench-read`: fill two logs, and measure what reading costs in each, all taking turns.

It must not assert anything.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path

from . import generate


def main() -> None:
    """Make both logs ready and print the tables."""
    parser = argparse.ArgumentParser(prog="make bench-read", description=__doc__)
    parser.add_argument("--postgres", type=int, metavar="VERSION", help="major version of the server (newest)")
    parser.add_argument("--small", type=int, default=200_000, metavar="N", help="entries of the small log (200000)")
    parser.add_argument("--large", type=int, default=20_000_000, metavar="N", help="entries of the large (20000000)")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="keep the logs there, and use those that are there")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = options.data or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pg-daybook-bench-")))
        generate.prepare_folder(folder)
        for entries in (options.small, options.large):
            stack.enter_context(generate.ready(folder, entries, options.postgres))


if __name__ == "__main__":
    main()
