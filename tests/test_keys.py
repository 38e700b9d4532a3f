"""The life of a key: made, used, rotated, expired, revoked, and what of it is written down where.

It must not repeat what the command prints; test_commands.py does.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from daybook import keys
from daybook.commands import main
from daybook.credentials import key_secret
from tests.conftest import Database
from tests.reading import WORKSPACE, Client, opened
from tests.trail import Connection, count

CREATE = ["key", "create", "--workspace", "acme", "--name", "Ada's key", "--role", "admin"]


@pytest.fixture
def at(database: Database, monkeypatch: pytest.MonkeyPatch) -> Database:
    """The database that the command is told of."""
    monkeypatch.setenv("DAYBOOK_DATABASE_URL", database.url("maintainer"))
    return database


@pytest.fixture
def old(db: Connection) -> str:
    """A key of workspace acme."""
    return keys.create_key(db, "acme", "Ada's key", "admin")


def status(api: Client, key: str) -> int:
    """How the list is answered to this key."""
    return api.get(WORKSPACE, headers={"Authorization": f"Bearer {key}"}).status_code


def found(db: psycopg.Connection[Any], key: str) -> list[Any]:
    """What the database finds by a key."""
    return db.execute("select name, workspace_id, role from audit.find_key(%s, %s)", key_secret(key)).fetchall()


def in_hours(hours: float) -> datetime:
    return datetime.now(UTC) + timedelta(hours=hours)


# Rotation


def test_both_keys_are_valid_until_the_overlap_ends(database: Database, db: Connection, old: str) -> None:
    rotated = keys.rotate_key(db, old[8:16], timedelta(hours=24))
    assert rotated is not None
    assert rotated.old_key_ends_at is not None
    assert abs(rotated.old_key_ends_at - in_hours(24)) < timedelta(minutes=1)
    assert rotated.new_key_ends_at is None
    with opened(database) as api:
        during = (status(api, old), status(api, rotated.key))
        db.execute("update audit.api_key set expires_at = now() where prefix = %s", [old[8:16]])
        after = (status(api, old), status(api, rotated.key))
    assert (during, after) == ((200, 200), (401, 200))


def test_the_new_key_is_of_the_same_workspace_name_and_role(db: Connection, old: str) -> None:
    rotated = keys.rotate_key(db, old[8:16], timedelta(hours=1))
    assert rotated is not None
    assert found(db, rotated.key) == found(db, old) == [("Ada's key", "acme", "admin")]


def test_without_an_overlap_the_old_key_is_revoked_at_once(db: Connection, old: str) -> None:
    rotated = keys.rotate_key(db, old[8:16], timedelta(0))
    assert rotated is not None
    assert (found(db, old), len(found(db, rotated.key))) == ([], 1)
    assert count(db, "select count(*) from audit.entry where event = 'key_revoked'") == 1


def test_a_key_made_for_some_time_is_replaced_by_one_for_as_long(db: Connection) -> None:
    old = keys.create_key(db, "acme", "Ada's key", "admin", in_hours(10))
    earlier = "created_at = created_at - interval '6 hours', expires_at = expires_at - interval '6 hours'"
    db.execute(f"update audit.api_key set {earlier}".encode())
    rotated = keys.rotate_key(db, old[8:16], timedelta(hours=24))
    assert rotated is not None
    assert rotated.old_key_ends_at is not None
    assert rotated.new_key_ends_at is not None
    # The overlap never lengthens the old one's life.
    assert abs(rotated.old_key_ends_at - in_hours(4)) < timedelta(minutes=1)
    assert abs(rotated.new_key_ends_at - in_hours(10)) < timedelta(minutes=1)


@pytest.mark.parametrize("hours", [None, 240])
def test_a_key_that_is_rotated_twice_is_replaced_by_one_for_as_long_again(db: Connection, hours: int | None) -> None:
    old = keys.create_key(db, "acme", "Ada's key", "admin", in_hours(hours) if hours else None)
    keys.rotate_key(db, old[8:16], timedelta(hours=1))
    again = keys.rotate_key(db, old[8:16], timedelta(hours=1))
    assert again is not None
    ends = again.new_key_ends_at and round((again.new_key_ends_at - datetime.now(UTC)) / timedelta(hours=1))
    assert ends == hours


def test_a_new_key_may_have_an_end_of_its_own(db: Connection, old: str) -> None:
    rotated = keys.rotate_key(db, old[8:16], timedelta(hours=1), in_hours(48))
    assert rotated is not None
    assert rotated.new_key_ends_at is not None
    assert abs(rotated.new_key_ends_at - in_hours(48)) < timedelta(minutes=1)


@pytest.mark.parametrize("ending", ["revoked_at = now()", "expires_at = now()", "prefix = 'elsewher'"])
def test_a_key_that_is_not_valid_is_not_rotated(db: Connection, old: str, ending: str) -> None:
    db.execute(f"update audit.api_key set {ending}".encode())
    assert keys.rotate_key(db, old[8:16], timedelta(hours=1)) is None
    assert count(db, "select count(*) from audit.api_key") == 1


def test_a_negative_overlap_is_refused(db: Connection, old: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=r"overlap: .* is no span of time from 0 on"):
        keys.rotate_key(db, old[8:16], timedelta(hours=-1))


def test_rotation_is_recorded_with_the_key_that_it_replaces(db: Connection, old: str) -> None:
    rotated = keys.rotate_key(db, old[8:16], timedelta(hours=1))
    assert rotated is not None
    entries = db.execute(
        "select event, resource_id, workspace_id, context -> 'details' ->> 'replaces'"
        " from audit.entry order by created_at"
    ).fetchall()
    assert entries == [
        ("key_created", old[8:16], "acme", None),
        ("key_created", rotated.key[8:16], "acme", old[8:16]),
    ]


def test_the_command_prints_the_new_key_alone_and_says_how_long_the_old_one_is_valid(
    at: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    main(CREATE)
    old = capsys.readouterr().out.strip()
    assert main(["key", "rotate", old[8:16], "--overlap", "30min"]) == 0
    printed = capsys.readouterr()
    assert re.fullmatch(r"daybook_[A-Za-z0-9_-]{43}\n", printed.out)
    assert re.fullmatch(
        rf"daybook: key {old[8:16]} is valid until \d{{4}}-\d\d-\d\d \d\d:\d\d UTC; the new one for ever\n"
        r"daybook: this is the only time that the key is shown\n",
        printed.err,
    )


def test_the_command_says_that_an_old_key_has_ended(at: Database, capsys: pytest.CaptureFixture[str]) -> None:
    main(CREATE)
    old = capsys.readouterr().out.strip()
    assert main(["key", "rotate", old, "--overlap", "0"]) == 0
    assert f"key {old[8:16]} is valid no longer; the new one for ever\n" in capsys.readouterr().err


def test_the_command_refuses_what_is_no_valid_key(at: Database, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "rotate", "nosuchky"]) == 2
    assert capsys.readouterr().err == "daybook: there is no valid key nosuchky; daybook key list shows them\n"


@pytest.mark.parametrize("overlap", ["-1h", "soon", "1", "1w", ""])
def test_the_command_refuses_an_overlap_that_is_none(
    at: Database, capsys: pytest.CaptureFixture[str], overlap: str
) -> None:
    assert main(["key", "rotate", "nosuchky", f"--overlap={overlap}"]) == 2
    assert "is no span of time such as 24h, 7d or 30min, or 0" in capsys.readouterr().err


# Listing


def test_keys_are_listed_by_the_beginning_of_their_prefix(db: Connection) -> None:
    made = [keys.create_key(db, "acme", name, "admin") for name in ("a", "b")]
    assert [key.name for key in keys.list_keys(db, made[1][8:12])] == ["b"]
    assert [key.name for key in keys.list_keys(db)] == ["a", "b"]
    assert keys.list_keys(db, "%") == []


def test_the_last_use_is_listed(at: Database, db: Connection, old: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["key", "list"])
    assert "(valid, never used)" in capsys.readouterr().out
    with opened(at) as api:
        status(api, old)
    main(["key", "list", old[8:16]])
    assert re.search(r"\(valid, used \d{4}-\d\d-\d\d \d\d:\d\d\)\n$", capsys.readouterr().out)


# What the database knows


def test_a_key_is_found_by_its_whole_digest_alone(db: Connection, old: str) -> None:
    assert len(found(db, old)) == 1
    assert found(db, old[:-1] + ("A" if old[-1] != "A" else "B")) == []
    other = keys.create_key(db, "globex", "Eve's key", "admin")
    mixed = db.execute(
        "select count(*) from audit.find_key(%s, %s)", [key_secret(old).prefix, key_secret(other).digest]
    ).fetchone()
    assert mixed == (0,)


def test_digests_are_compared_blinded(db: Connection, old: str) -> None:
    # Each comparison hashes both digests with a fresh salt, so where it stops follows nothing that a caller can steer.
    bodies = db.execute(
        "select p.proname::text, pg_get_functiondef(p.oid) ~ 'same_digest\\(' from pg_proc p"
        " where p.pronamespace = 'audit'::regnamespace and p.proname in ('find_key', 'find_session', 'close_session')"
        " order by 1"
    ).fetchall()
    assert bodies == [("close_session", True), ("find_key", True), ("find_session", True)]
    compare = "select audit.same_digest(%s, %s)"
    assert db.execute(compare, [b"a" * 32, b"a" * 32]).fetchone() == (True,)
    assert db.execute(compare, [b"a" * 32, b"a" * 31 + b"b"]).fetchone() == (False,)


def test_a_key_stands_nowhere_in_the_database(database: Database, db: Connection, old: str) -> None:
    with opened(database) as api:
        status(api, old)
    tables = db.execute(
        "select c.oid::regclass::text from pg_class c where c.relnamespace = 'audit'::regnamespace and c.relkind = 'r'"
    ).fetchall()
    everything = "".join(str(db.execute(f"select t::text from {name} t".encode()).fetchall()) for (name,) in tables)
    assert (old[8:16] in everything, old[16:] in everything) == (True, False)
