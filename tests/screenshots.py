"""The pictures of the README: the demo's page in Chromium, light, dark and on a phone, and one entry's details.

It must not touch a demo of the user's: it fills one of its own in a temporary folder, which takes a minute.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from playwright.sync_api import Browser, Page

from tests.browsing import launched
from tests.conftest import REPOSITORY

DESKTOP = {"width": 1080, "height": 900}
PHONE = {"width": 390, "height": 760}


def main() -> None:
    """Take the pictures anew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=REPOSITORY / "docs", help="the folder of the pictures (docs)")
    folder: Path = parser.parse_args().to
    with demo() as values, launched() as browser:
        take(browser, values, folder)


def take(browser: Browser, values: dict[str, str], folder: Path) -> None:
    """The four pictures, of a demo that printed these values."""
    for name, theme, size in (("light", "light", DESKTOP), ("dark", "dark", DESKTOP), ("phone", "light", PHONE)):
        with signed_in(browser, values, theme, size) as page:
            if size is PHONE:
                # Its first screen is the filters' form.
                page.locator("figure").evaluate(
                    'figure => scrollTo({ top: figure.offsetTop - 8, behavior: "instant" })'
                )
            save(page, folder / f"audit-log-{name}.png")
    with signed_in(browser, values, "light", DESKTOP) as page:
        page.set_viewport_size({"width": DESKTOP["width"], "height": 580})
        page.goto(f"{page.url}/entry/{entry_to_show(values['DBA'])}")
        save(page, folder / "audit-log-entry.png")


@contextmanager
def demo() -> Iterator[dict[str, str]]:
    """A demo that runs, and the values that it prints by their names."""
    with tempfile.TemporaryDirectory(prefix="pg-daybook-screenshots-") as folder:
        # As root the server runs as another user, who has to pass through it.
        Path(folder).chmod(0o755)
        command = [sys.executable, "-m", "daybook", "demo", "--port", "0", "--data", f"{folder}/data"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                values: dict[str, str] = {}
                for line in process.stdout:
                    name, found, value = line.strip().partition(": ")
                    values |= {name: value} if found else {}
                    if name == "Other workspace's key":
                        break
                yield values
            finally:
                process.terminate()
                process.wait(60)


@contextmanager
def signed_in(browser: Browser, values: dict[str, str], theme: str, size: dict[str, int]) -> Iterator[Page]:
    """The timeline as the demo's administrator sees it."""
    context = browser.new_context(
        viewport={"width": size["width"], "height": size["height"]},
        color_scheme="dark" if theme == "dark" else "light",
        # More dots than the page has, for screens that have them.
        device_scale_factor=1.25,
        is_mobile=size is PHONE,
        has_touch=size is PHONE,
    )
    page = context.new_page()
    page.goto(values["URL"] + "/settings/audit-log/sign-in")
    page.get_by_label("API key").fill(values["Admin key"])
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(re.compile("/settings/audit-log$"))
    yield page
    context.close()


def entry_to_show(url: str) -> str:
    """The last update of a text of which the beginning stayed, so that it shows which words were changed."""
    with psycopg.connect(url) as connection:
        found = connection.execute(
            """
            select id::text from audit.entry
            where workspace_id = 'acme' and event = 'documentation_updated' and row_count = 1
              and before ->> 'description' ~ '[.] ' and after ->> 'description' ~ '[.] '
              and split_part(before ->> 'description', '. ', 1) = split_part(after ->> 'description', '. ', 1)
            order by created_at desc limit 1"""
        ).fetchone()
    assert found is not None
    return str(found[0])


def save(page: Page, path: Path) -> None:
    """The part of the page that a window shows."""
    page.wait_for_load_state("networkidle")
    page.screenshot(path=path)
    print(f"{path}: {path.stat().st_size // 1024} kB")


if __name__ == "__main__":
    main()
