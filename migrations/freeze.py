"""Copies sql/ into the migration that is not released yet; refuses to touch one that is.

It must not be needed by an installation: migrations run from their own frozen copies.
"""

import hashlib
import sys
from pathlib import Path

MIGRATIONS = Path(__file__).resolve().parent
VERSIONS = MIGRATIONS / "versions"
SQL = MIGRATIONS.parent / "sql"
# Lines of "sha256  name": the files of released migrations, which never change again.
RELEASED = MIGRATIONS / "released.sha256"
# Alembic writes the version itself.
LEFT_OUT = "910_version.sql"


def frozen_sql() -> str:
    """Return sql/ as one script, in the order of the file names, without the version's row."""
    files = [file for file in sorted(SQL.glob("*.sql")) if file.name != LEFT_OUT]
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


def released_files() -> dict[str, str]:
    """Return the SHA-256 of each file of a released migration by its name."""
    lines = RELEASED.read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split() for line in lines if line and not line.startswith("#"))}


def digest(file: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def main() -> int:
    """Write the newest migration's frozen copy; exit code 2 when that migration is released."""
    target = max(VERSIONS.glob("*.up.sql"), default=VERSIONS / "0001_first_version.up.sql")
    if target.name in released_files():
        print(f"{target.name} is released and stays as it is; add a new migration for what changed", file=sys.stderr)
        return 2
    target.write_text(frozen_sql(), encoding="utf-8")
    print(f"froze sql/ into {target.relative_to(MIGRATIONS.parent)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
