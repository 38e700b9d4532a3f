"""The OpenAPI document against the running app: what it allows and forbids is answered as it says, whatever the key.

It must not know a route: what is tried comes from the document, and how from schemathesis.toml.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import TestServer
from tests.reading import (
    ADMIN,
    AUDITOR,
    MEMBER,
    STRANGER,
    add_changes,
    add_entry,
    add_keys,
    key_for,
    shared_database,
)
from tests.serving import served

SETTINGS = Path(__file__).with_name("schemathesis.toml")
# Of a form that no key has. Those that could be a key are answered later the more often they are wrong.
UNKNOWN = "daybook_unknown"
FEW = ("--phases=fuzzing", "--max-examples=10")


@pytest.fixture(scope="module")
def port(server: TestServer) -> Iterator[int]:
    """The port of a server over a log of a bulk entry and of entries of two workspaces."""
    with shared_database(server) as database:
        db = database.connect()
        add_keys(db)
        add_changes(db, add_entry(db, resource_id=None, row_count=21, context={"metadata": {"a": 1}}), range(1, 22))
        add_entry(db, before={"title": "Revenue"}, after={"title": "Revenue KPIs"}, context={"reason": "typo"})
        add_entry(db, workspace_id="globex")
        with served(database, stderr=None) as (_, port):
            yield port


def tried(port: int, *options: str) -> subprocess.CompletedProcess[str]:
    """What schemathesis found."""
    program = [sys.executable, "-m", "schemathesis.cli", f"--config-file={SETTINGS}", "--no-color", "run"]
    document = f"http://127.0.0.1:{port}/schema/openapi.json"
    return subprocess.run([*program, document, *options], capture_output=True, text=True, timeout=300, check=False)


def test_every_operation_answers_an_administrator_as_described(port: int) -> None:
    found = tried(port, f"--header=Authorization: Bearer {ADMIN}")
    assert found.returncode == 0, found.stdout
    assert "41 selected / 41 total" in found.stdout


@pytest.mark.parametrize(
    "key", [AUDITOR, MEMBER, STRANGER, UNKNOWN], ids=["auditor", "member", "another workspace's admin", "unknown"]
)
def test_every_operation_answers_as_described_whatever_the_key(port: int, key: str) -> None:
    # An administrator's requests get through to the same code, and are tried in all ways there are.
    found = tried(port, f"--header=Authorization: Bearer {key}")
    assert found.returncode == 0, found.stdout
    assert "41 selected / 41 total" in found.stdout


def test_every_operation_answers_as_described_without_a_key(port: int) -> None:
    found = tried(port, *FEW)
    assert found.returncode == 0, found.stdout


def test_a_key_that_could_be_one_is_answered_as_described(port: int) -> None:
    few = ["--phases=fuzzing", "--max-examples=1", "--include-method=GET"]
    found = tried(port, f"--header=Authorization: Bearer {key_for('u')}", *few)
    assert found.returncode == 0, found.stdout
