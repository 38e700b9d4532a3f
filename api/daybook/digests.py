"""Digests keeps the digests of blocks outside the database, one JSON object a line, and reads them again.

It only ever adds to what is kept: what was written there before is what a forger cannot reach.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from .leaves import Block
from .signing import SealError

STANDARD_OUTPUT = "-"
SUFFIX = ".ndjson"
# More than a line has: the last one is found in the end of the file.
_LINE = 4096
COLUMNS = (
    "sequence, lower_bound, upper_bound, sealed_at, entries, changes, root, previous_digest, digest, key_fingerprint,"
    " signature"
)


class Seal(NamedTuple):
    """A row of audit.seal, in the order of COLUMNS, or a line that was kept of it."""

    sequence: int
    lower_bound: datetime
    upper_bound: datetime
    sealed_at: datetime
    entries: int
    changes: int
    root: bytes
    previous_digest: bytes
    digest: bytes
    key_fingerprint: bytes | None
    signature: bytes | None

    @property
    def block(self) -> Block:
        """What its digest should be of."""
        return Block(*self[:8])

    @property
    def fits(self) -> bool:
        """Whether its digest is of what it says."""
        return self.block.digest == self.digest

    def as_json(self) -> dict[str, Any]:
        """An object: moments in UTC, digests in hexadecimal."""
        return {name: _written(value) for name, value in zip(self._fields, self, strict=True)}

    def line(self) -> str:
        """One line of JSON."""
        return json.dumps(self.as_json(), separators=(",", ":"))


def _written(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return value.hex() if isinstance(value, bytes) else value


def _signed(value: Any) -> bytes | None:
    return None if value is None else bytes.fromhex(value)


_READ: dict[str, Any] = {
    "sequence": int,
    **dict.fromkeys(("lower_bound", "upper_bound", "sealed_at"), datetime.fromisoformat),
    **dict.fromkeys(("entries", "changes"), int),
    **dict.fromkeys(("root", "previous_digest", "digest"), bytes.fromhex),
    **dict.fromkeys(("key_fingerprint", "signature"), _signed),
}


def parse_line(line: str) -> Seal | None:
    """The seal of a line; None for what is none, such as a line that a crash cut."""
    try:
        values = json.loads(line)
        return Seal(**{name: read(values[name]) for name, read in _READ.items()})
    except (ValueError, TypeError, KeyError):
        return None


def read_digests(place: Path) -> Iterator[Seal]:
    """All seals kept in a file, or in the files of a folder by their names. Raises SealError."""
    try:
        files = sorted(place.glob(f"*{SUFFIX}")) if place.is_dir() else [place]
        for file in files:
            with file.open(encoding="utf-8", errors="replace") as lines:
                yield from (seal for line in lines if (seal := parse_line(line)))
    except OSError as error:
        raise SealError(f"cannot read {place}: {error.strerror}") from None


@dataclass(frozen=True, slots=True)
class Keeper:
    """Where digests are kept: a file, a folder with a file for each UTC day, or standard output."""

    place: str

    @property
    def remembers(self) -> bool:
        """Whether what was kept can be read again."""
        return self.place != STANDARD_OUTPUT

    @property
    def _is_folder(self) -> bool:
        return self.place.endswith("/") or Path(self.place).is_dir()

    def last(self) -> Seal | None:
        """The last seal that was kept. Raises SealError."""
        path = Path(self.place)
        try:
            files = sorted(path.glob(f"*{SUFFIX}"), reverse=True) if self._is_folder else [path] * path.exists()
            for file in files:
                with file.open("rb") as kept:
                    kept.seek(max(0, file.stat().st_size - 2 * _LINE))
                    lines = kept.read().decode("utf-8", "replace").splitlines()
                for line in reversed(lines):
                    if seal := parse_line(line):
                        return seal
        except OSError as error:
            raise SealError(f"cannot read {path}: {error.strerror}") from None
        return None

    def keep(self, seals: Iterable[Seal]) -> None:
        """Add these seals. Raises SealError."""
        by_file: dict[Path, list[str]] = {}
        try:
            for seal in seals:
                if not self.remembers:
                    print(seal.line(), flush=True)
                    continue
                path = Path(self.place)
                if self._is_folder:
                    path /= f"{seal.lower_bound.astimezone(UTC):%Y-%m-%d}{SUFFIX}"
                by_file.setdefault(path, []).append(seal.line())
            for path, lines in by_file.items():
                _add(path, lines)
        except OSError as error:
            where = "standard output" if not self.remembers else self.place
            raise SealError(f"cannot write to {where}: {error.strerror}") from None


def _add(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            # A line that a crash cut ends here.
            before = b"" if file.read(1) == b"\n" else b"\n"
        else:
            before = b""
        file.write(before + "".join(f"{line}\n" for line in lines).encode())
        file.flush()
        os.fsync(file.fileno())
