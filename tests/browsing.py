"""What tests of the page in a real browser share: Chromium, and the app over logs with something in them.

It must not hold an expectation.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright

from tests.conftest import Database, TestServer
from tests.reading import PAGE, add_entry, add_keys, shared_database, today
from tests.serving import served
from tests.upkeep import settle

# Debian's; Playwright's own downloads are not needed.
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
# Milliseconds after which what was waited for does not come.
PATIENCE = 15_000


@contextmanager
def launched() -> Iterator[Browser]:
    """A browser; the test is skipped where there is none."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (Debian: apt install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page in a context of its own, what it `asked` for, and what it `said`: errors, warnings, dialogs."""

    page: Page
    base: str
    asked: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    @property
    def hosts(self) -> set[str]:
        """The hosts that were asked for something."""
        return {urlsplit(address).netloc for address in self.asked}

    def hear(self, message: ConsoleMessage) -> None:
        """Note what the console calls an error or a warning."""
        if message.type in ("error", "warning"):
            self.said.append(message.text)

    def open(self, address: str = "") -> Page:
        """Go to an address of the page."""
        self.page.goto(self.base + PAGE + address)
        return self.page


@dataclass(frozen=True)
class Site:
    """The app on a port, over a database; `names` are ids of entries that addresses may hold in braces."""

    port: int
    database: Database
    names: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def visited(self, browser: Browser, letter: str = "a", **options: Any) -> Iterator[Visit]:
        """A visit of whoever is signed in with the key of this letter; none is signed out."""
        base = f"http://127.0.0.1:{self.port}"
        context: BrowserContext = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        context.set_default_timeout(PATIENCE)
        if letter:
            context.add_cookies(
                [{"name": "daybook_session", "value": letter * 43, "url": base + PAGE, "sameSite": "Strict"}]
            )
        page = context.new_page()
        visit = Visit(page, base)
        page.on("request", lambda request: visit.asked.append(request.url))
        page.on("console", visit.hear)
        page.on("pageerror", lambda error: visit.said.append(str(error)))
        # Nobody answers it: a dialog is in the way of all that comes after, besides.
        page.on("dialog", lambda dialog: visit.said.append(f"dialog: {dialog.message}"))
        try:
            yield visit
        finally:
            context.close()


@contextmanager
def opened_site(database: Database, names: dict[str, str], patience: str = "10s") -> Iterator[Site]:
    """The app in a process of its own over this database; its queries may take so long."""
    with served(database, stderr=None, DAYBOOK_STATEMENT_TIMEOUT=patience) as (_, port):
        yield Site(port, database, names)


@contextmanager
def troubled_site(server: TestServer) -> Iterator[Site]:
    """A log whose upkeep is late, read by an app that waits for two seconds at most."""
    with shared_database(server) as database:
        db = database.connect()
        add_keys(db)
        add_entry(db, resource_name="Plan")
        db.execute("update audit.upkeep set last_run_at = now() - interval '3 days'")
        with opened_site(database, {}, patience="2s") as site:
            yield site


@contextmanager
def catalog_site(server: TestServer) -> Iterator[Site]:
    """A log of workspace acme: what an application wrote today through tracked tables, and entries of other days.

    Workspace globex has none. The people: Ada Lovelace, Grace Hopper, and Cy Mercer, a contractor.
    """
    with shared_database(server) as database:
        db = database.connect()
        add_keys(db)
        names = _write_past(db) | _write_today(database)
        with opened_site(database, names) as site:
            yield site


def _write_past(db: psycopg.Connection[Any]) -> dict[str, str]:
    """Three weeks of Ada's work, and what the contractor did in the last one and before."""
    for day in range(2, 22):
        for hour in range(3):
            add_entry(db, today(hours=-24 * day + hour), resource_id=f"p{day}", resource_name=f"Plan {day}")
    cy = {"actor_id": "c-9", "actor_name": "Cy Mercer"}
    dashboard = {"table_name": "dashboard", "resource_type": "dashboard"}
    add_entry(
        db, today(hours=-24 * 20 + 5), resource_id="p20", resource_name="Plan 20", after={"a": 1}, before={"a": 0}, **cy
    )
    values = {"id": 81, "name": "Churn", "refresh_minutes": 15}
    made = add_entry(
        db, today(hours=-60), event="resource_created", operation="INSERT", resource_id="81", resource_name="Churn",
        after=values, **dashboard, **cy,
    )  # fmt: skip
    add_entry(
        db, today(hours=-50), resource_id="81", resource_name="Churn", before={"refresh_minutes": 15},
        after={"refresh_minutes": 60}, request_id="r-50", context={"reason": "Too slow"}, **dashboard, **cy,
    )  # fmt: skip
    add_entry(
        db, today(hours=-49), event="permission_granted", operation="INSERT", resource_id="81", resource_name="Churn",
        after={"level": "edit"}, context={"subject": {"id": "7", "name": "Grace Hopper"}}, **dashboard, **cy,
    )  # fmt: skip
    settle(db)
    return {"made": made}


def _write_today(database: Database) -> dict[str, str]:
    """A bulk update of sixty documents and a dashboard that is deleted, through tracked tables."""
    owner = database.connect("app_owner")
    for table in ("document", "dashboard"):
        owner.execute(
            f"create table {table} (id integer primary key, workspace_id text, name text, status text, note text);"
            f"select audit.enable_tracking('{table}', resource_name_column => 'name')".encode()
        )
    for actor, name, statement in (
        ("1", "Ada Lovelace", "insert into document select n, 'acme', 'Document ' || n from generate_series(1, 60) n"),
        ("1", "Ada Lovelace", "insert into dashboard values (7, 'acme', 'Revenue KPIs', 'live', 'Monthly, in EUR')"),
        ("7", "Grace Hopper", "update document set status = 'archived' where id > 5"),
        ("7", "Grace Hopper", "delete from dashboard where id = 7"),
    ):
        with owner.transaction():
            owner.execute("select audit.set_actor(%s, %s)", [actor, name])
            owner.execute(statement.encode())
    found = database.connect().execute(
        "select operation, table_name, id::text from audit.entry where table_name in ('document', 'dashboard')"
        " and created_at > now() - interval '1 hour'"
    )
    entries = {(operation, table): entry for operation, table, entry in found}
    return {"bulk": entries["UPDATE", "document"], "deleted": entries["DELETE", "dashboard"]}
