"""Who reads: attempts with keys that are not valid slow down, and another authenticator may speak first.

It must not repeat the table of answers; test_answers.py holds that.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from litestar.testing import TestClient

from daybook import attempts
from daybook.app import create_app
from daybook.attempts import FORGOTTEN_AFTER, MOST_REMEMBERED, MOST_WAITING, Attempts
from daybook.authentication import Authenticator, Identity
from daybook.errors import Unreadable
from tests.conftest import REPOSITORY, Database
from tests.reading import AS_ADMIN, PAGE, WORKSPACE, Client, add_entry, add_keys, key_for, opened, settings_for
from tests.trail import count

Connection = psycopg.Connection[Any]

HOST_SECRET = b"the host application's secret"
AS_NOBODY = {"Authorization": f"Bearer {key_for('u')}"}


# Slowing down


def delays(failures: Attempts, senders: list[tuple[str | None, str]]) -> list[float]:
    """How long each of these failed attempts is held back."""
    return [failures.fail(address, prefix) for address, prefix in senders]


def test_failures_from_one_address_are_held_back_ever_longer() -> None:
    senders: list[tuple[str | None, str]] = [("192.0.2.1", f"prefix{number:02}") for number in range(12)]
    assert delays(Attempts(), senders) == [0, 0, 0, 0, 0, 0.25, 0.5, 1, 2, 4, 5, 5]


def test_failures_with_one_prefix_are_held_back_whatever_their_address() -> None:
    senders: list[tuple[str | None, str]] = [(f"192.0.2.{number}", "aaaaaaaa") for number in range(7)]
    assert delays(Attempts(), senders) == [0, 0, 0, 0, 0, 0.25, 0.5]


def test_another_address_and_prefix_are_not_held_back() -> None:
    failures = Attempts()
    delays(failures, [("192.0.2.1", "aaaaaaaa")] * 9)
    assert failures.fail("192.0.2.2", "bbbbbbbb") == 0


def test_addresses_of_one_ipv6_network_are_one_sender() -> None:
    senders: list[tuple[str | None, str]] = [(f"2001:db8::{number:x}", f"prefix{number:02}") for number in range(6)]
    assert delays(Attempts(), senders)[-1] == 0.25
    other: list[tuple[str | None, str]] = [(f"2001:db8:0:{number:x}::1", f"prefix{number:02}") for number in range(6)]
    assert delays(Attempts(), other)[-1] == 0


def test_failures_are_forgotten_after_a_quarter_of_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    failures = Attempts()
    assert delays(failures, [("192.0.2.1", "aaaaaaaa")] * 6)[-1] == 0.25
    now += FORGOTTEN_AFTER + 1
    assert failures.fail("192.0.2.1", "aaaaaaaa") == 0


def test_no_more_than_so_many_senders_are_remembered() -> None:
    failures = Attempts()
    delays(failures, [(None, f"{number:08}") for number in range(MOST_REMEMBERED + 500)])
    assert len(failures._failed) == MOST_REMEMBERED


def test_when_too_many_are_held_back_the_next_is_told_to_come_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "FREE_ATTEMPTS", 0)
    monkeypatch.setattr(attempts, "FIRST_DELAY", 60)

    async def flood() -> BaseException | None:
        failures = Attempts()
        held = [asyncio.create_task(failures.hold_back("192.0.2.1", "aaaaaaaa")) for _ in range(MOST_WAITING)]
        await asyncio.sleep(0)
        [refusal] = await asyncio.gather(failures.hold_back("192.0.2.2", "bbbbbbbb"), return_exceptions=True)
        [task.cancel() for task in held]
        return refusal

    refusal = asyncio.run(flood())
    assert isinstance(refusal, Unreadable)
    assert refusal.headers["Retry-After"] == "5"


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The delays of the app, which are noted here instead of waited for."""
    noted: list[float] = []

    async def sleep(seconds: float) -> None:
        noted.append(seconds)

    monkeypatch.setattr("daybook.attempts.asyncio.sleep", sleep)
    return noted


def test_the_app_holds_back_failures_and_never_a_valid_key(
    database: Database, db: Connection, held: list[float]
) -> None:
    add_keys(db)
    with opened(database) as api:
        failed = [api.get(WORKSPACE, headers=AS_NOBODY).status_code for _ in range(7)]
        held_back = list(held)
        valid = [api.get(WORKSPACE, headers=AS_ADMIN).status_code for _ in range(3)]
    assert (failed, held_back) == ([401] * 7, [0.25, 0.5])
    assert (valid, held) == ([200] * 3, [0.25, 0.5])


def test_the_page_holds_back_failures_too(database: Database, db: Connection, held: list[float]) -> None:
    add_keys(db)
    with opened(database) as web:
        [web.post(PAGE + "/sign-in", data={"key": key_for("u")}) for _ in range(6)]
    assert held == [0.25]


def test_a_sender_is_not_told_apart_by_what_he_forwards_himself(
    database: Database, db: Connection, held: list[float]
) -> None:
    add_keys(db)
    senders = zip("nopqtu", range(6), strict=True)
    forwarding = [
        {"Authorization": f"Bearer {key_for(letter)}", "X-Forwarded-For": f"192.0.2.{number}"}
        for letter, number in senders
    ]
    with opened(database) as api:
        [api.get(WORKSPACE, headers=headers) for headers in forwarding]
    assert held == [0.25]


# Another authenticator


def example() -> Authenticator:
    """The authenticator that docs/security.md shows."""
    text = (REPOSITORY / "docs" / "security.md").read_text(encoding="utf-8")
    [code] = [block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "async def" in block]
    names: dict[str, Any] = {}
    exec(code, names)
    names["SECRET"] = HOST_SECRET
    return names["host_token"]  # type: ignore[no-any-return]


@pytest.fixture
def host(database: Database, db: Connection) -> Iterator[Client]:
    """The app within a host application that has tokens of its own."""
    add_keys(db)
    add_entry(db)
    app = create_app(settings_for(database), example())
    with TestClient(app, base_url="http://log.example", raise_server_exceptions=False) as client:
        client.follow_redirects = False
        yield client


def bearing(user: str, name: str, workspace: str, role: str, secret: bytes = HOST_SECRET) -> dict[str, str]:
    """The header that bears the host application's token, as it signs it."""
    payload = base64.urlsafe_b64encode(json.dumps([user, name, workspace, role, 4102444800]).encode()).decode()
    signature = hmac.new(secret, payload.encode(), hashlib.sha256).hexdigest()
    return {"Authorization": f"Bearer app.{payload}.{signature}"}


def test_a_host_application_s_own_token_reads_its_workspace(host: Client, db: Connection) -> None:
    answer = host.get(WORKSPACE, headers=bearing("42", "Ada Lovelace", "acme", "admin"))
    assert (answer.status_code, answer.json()["count"]) == (200, 1)
    viewed = "select workspace_id, actor_type, actor_id, actor_name from audit.entry where event = 'log_viewed'"
    assert db.execute(viewed).fetchall() == [("acme", "user", "user:42", "Ada Lovelace")]


def test_its_readers_are_recorded_once_a_day_too(host: Client, db: Connection) -> None:
    [host.get(WORKSPACE, headers=bearing("42", "Ada", "acme", "auditor")) for _ in range(3)]
    host.get(WORKSPACE, headers=bearing("43", "Grace", "acme", "admin"))
    assert count(db, "select count(*) from audit.entry where event = 'log_viewed'") == 2


def test_its_tokens_sign_in_to_the_page_without_a_session(host: Client) -> None:
    answer = host.get(PAGE, headers=bearing("42", "Ada Lovelace", "acme", "admin"))
    assert (answer.status_code, "Ada Lovelace" in answer.text) == (200, True)


@pytest.mark.parametrize("role", ["member", "", "owner", "ADMIN"])
def test_a_role_that_is_neither_admin_nor_auditor_reads_nothing(host: Client, role: str) -> None:
    assert host.get(WORKSPACE, headers=bearing("42", "Ada", "acme", role)).status_code == 403
    assert host.get(PAGE, headers=bearing("42", "Ada", "acme", role)).status_code == 403


def test_another_workspace_s_token_sees_nothing_of_this_one(host: Client) -> None:
    answer = host.get(WORKSPACE, headers=bearing("42", "Ada", "globex", "admin"))
    assert (answer.status_code, answer.json()["count"]) == (200, 0)


def test_a_token_that_it_did_not_sign_is_invalid(host: Client) -> None:
    answer = host.get(WORKSPACE, headers=bearing("42", "Ada", "acme", "admin", secret=b"another"))
    assert (answer.status_code, answer.text) == (401, '{"detail":"Invalid token."}')


def test_keys_go_on_beside_it(host: Client) -> None:
    assert host.get(WORKSPACE, headers=AS_ADMIN).json()["count"] == 1


def test_an_authenticator_that_fails_lets_nobody_in(database: Database, db: Connection) -> None:
    async def failing(_: Any) -> Identity | None:
        raise RuntimeError("secret words")

    add_keys(db)
    with TestClient(create_app(settings_for(database), failing), raise_server_exceptions=False) as client:
        answer = client.get(WORKSPACE, headers=AS_ADMIN)
    assert (answer.status_code, answer.text) == (500, '{"detail":"Something went wrong; it has been logged."}')


@pytest.mark.parametrize("reader", ["", " ", "system", " user:42", "u" * 201])
def test_who_could_not_be_named_in_the_log_reads_nothing(database: Database, db: Connection, reader: str) -> None:
    async def naming(_: Any) -> Identity | None:
        return Identity(reader, "Ada", "acme", "admin")

    add_keys(db)
    with TestClient(create_app(settings_for(database), naming), raise_server_exceptions=False) as client:
        assert client.get(WORKSPACE).status_code == 500


def test_a_reader_of_no_workspace_reads_nothing(database: Database, db: Connection) -> None:
    async def naming(_: Any) -> Identity | None:
        return Identity("user:42", "Ada", "", "admin")

    add_keys(db)
    with TestClient(create_app(settings_for(database), naming), raise_server_exceptions=False) as client:
        assert client.get(WORKSPACE).status_code == 500
