"""Run the tests once on each major version of PostgreSQL that is found, or on those that `PG` names.

It must not call one version enough, unless `PG` says so.
"""

import os
import subprocess
import sys

from daybook.postgres import PostgresError, find_server, find_servers


def wanted_versions() -> list[int]:
    """Return the versions to run on, newest first; raise PostgresError when too few are there."""
    if named := os.environ.get("PG", "").split():
        return [find_server(int(version)).version for version in named]
    found = sorted({server.version for server in find_servers()}, reverse=True)
    if len(found) < 2:
        raise PostgresError(
            f"The tests want two major versions of PostgreSQL and found {found or 'none'}; "
            "install another one (Debian: apt-get install postgresql), or name them: make test-all PG=18"
        )
    return found


def main() -> int:
    try:
        versions = wanted_versions()
    except PostgresError as error:
        print(error, file=sys.stderr)
        return 2
    if sys.argv[1:] == ["--list"]:
        print(*versions)
        return 0
    command = [sys.executable, "-m", "pytest", *sys.argv[1:]]
    codes = {version: subprocess.call(command, env={**os.environ, "PG": str(version)}) for version in versions}
    for version, code in codes.items():
        print(f"PostgreSQL {version}: {'passed' if code == 0 else f'failed (exit code {code})'}", file=sys.stderr)
    return max(codes.values())


if __name__ == "__main__":
    sys.exit(main())
