"""The page in a real browser: what an administrator finds out with it, by mouse and by keyboard.

It must not ask how the page looks in its states: tests/test_browser_states.py does.
"""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browsing import Site, Visit, catalog_site, launched
from tests.conftest import TestServer

pytestmark = pytest.mark.xdist_group("browser")

both = pytest.mark.parametrize("script", [True, False], ids=["with_javascript", "without_javascript"])


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def site(browser: Browser, server: TestServer) -> Iterator[Site]:
    with catalog_site(server) as site:
        yield site


@pytest.fixture
def visit(browser: Browser, site: Site) -> Iterator[Visit]:
    with site.visited(browser) as visit:
        yield visit


@pytest.fixture
def page(visit: Visit) -> Page:
    return visit.open()


def sentences(page: Page) -> list[str]:
    """What the timeline says, one sentence for each entry."""
    return page.locator(".line .what > p:first-child").all_inner_texts()


def values(page: Page) -> list[str]:
    """The table of one entry, row by row."""
    return [row.replace("\t", " | ") for row in page.locator(".entry tbody tr").all_inner_texts()]


# What an administrator wants to know


@both
def test_who_deleted_this_dashboard(browser: Browser, site: Site, script: bool) -> None:
    with site.visited(browser, java_script_enabled=script) as visit:
        page = visit.open()
        page.get_by_label("Search").fill("revenue")
        page.get_by_role("button", name="Show").click()
        expect(page.locator(".chips")).to_contain_text("holds the words revenue")
        assert sentences(page) == [
            "Grace Hopper deleted the dashboard Revenue KPIs",
            "Ada Lovelace created the dashboard Revenue KPIs",
        ]
        page.locator(".line", has_text="deleted").get_by_role("link", name="Open the entry").click()
        expect(page.locator(".facts")).to_contain_text("Grace Hopper (7), user")
        assert "name | Revenue KPIs | nothing" in values(page)
        assert page.url.endswith("?q=revenue") is script


@both
def test_what_a_contractor_changed_last_week(browser: Browser, site: Site, script: bool) -> None:
    with site.visited(browser, java_script_enabled=script) as visit:
        page = visit.open()
        if script:
            page.get_by_label("User", exact=True).focus()
            expect(page.locator("datalist option[value='Cy Mercer']")).to_have_count(1)
            page.get_by_label("User", exact=True).fill("Cy Mercer")
        else:
            page.get_by_text("More filters").click()
            page.get_by_role("link", name="Choose a user from a list").click()
            page.get_by_role("link", name="Cy Mercer").click()
        page.get_by_label("Date").select_option("Last 7 days")
        page.get_by_role("button", name="Show").click()
        expect(page.locator(".chips li")).to_contain_text(["done by Cy Mercer", "in the last 7 days", "Show all"])
        assert sentences(page) == [
            "Cy Mercer granted edit on the dashboard Churn to Grace Hopper",
            "Cy Mercer updated the dashboard Churn",
            "Cy Mercer created the dashboard Churn",
        ]
        assert page.locator(".line").nth(1).locator(".summary").all_inner_texts() == [
            "refresh_minutes: 15 → 60",
            "Reason: Too slow",
        ]


@both
def test_what_a_bulk_update_touched(browser: Browser, site: Site, script: bool) -> None:
    with site.visited(browser, java_script_enabled=script) as visit:
        page = visit.open()
        line = page.locator(".line", has_text="updated 55 documents")
        assert "Document 6" not in line.inner_text()
        line.get_by_role("link", name="See the 55 rows").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Grace Hopper updated 55 documents")
        assert "55 rows, these are 1 to 50." in page.locator("main").inner_text()
        page.get_by_role("link", name="Next rows").click()
        expect(page.locator("section.row")).to_have_count(5)
        name = page.locator("section.row h2 a").first.inner_text()
        assert values(page)[0] == "status | null | archived"
        page.locator("section.row h2 a").first.click()
        expect(page.get_by_role("heading", level=1)).to_have_text(name)
        assert sentences(page) == ["Grace Hopper updated 55 documents", "Ada Lovelace created 60 documents"]


# Without a mouse


def test_single_keys_search_move_open_close_and_help(page: Page) -> None:
    page.keyboard.press("/")
    expect(page.get_by_label("Search")).to_be_focused()
    page.keyboard.type("j?")
    assert page.get_by_label("Search").input_value() == "j?"
    page.keyboard.press("Escape")
    lines = page.locator(".line > a.when")
    page.keyboard.press("j")
    expect(lines.nth(0)).to_be_focused()
    page.keyboard.press("j")
    page.keyboard.press("k")
    page.keyboard.press("j")
    expect(lines.nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".line.open .facts")).to_contain_text("Grace Hopper (7), user")
    expect(lines.nth(1)).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("Tab")
    page.keyboard.press("Escape")
    expect(page.locator(".line.open")).to_have_count(0)
    expect(lines.nth(1)).to_be_focused()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_single_keys_can_be_turned_off_and_stay_so(page: Page) -> None:
    page.get_by_role("button", name="Keyboard").click()
    page.get_by_label("Single keys do this").uncheck()
    page.get_by_role("button", name="Close").click()
    page.reload()
    page.keyboard.press("/")
    page.keyboard.press("?")
    expect(page.get_by_label("Search")).not_to_be_focused()
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_a_day_of_the_histogram_is_chosen_by_its_keys(page: Page) -> None:
    days = page.locator(".histogram svg a")
    page.get_by_text("More filters").focus()
    for _ in range(3):
        page.keyboard.press("Tab")
        if days.last.evaluate("day => day === document.activeElement"):
            break
    expect(days.last).to_be_focused()
    # Yesterday has no entries, so that its bar leads nowhere.
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Tab")
    expect(page.get_by_text("The same as a table")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.locator(".chips")).to_contain_text("Show all")
    assert sentences(page) == ["Ada Lovelace updated the document Plan 2"] * 3


MARK_OF_FOCUS = """() => {
    const at = document.activeElement, box = at.getBoundingClientRect();
    if (at === document.body) return null;
    const drawn = at.matches("svg a") ? at.querySelector("rect") : at;
    const style = getComputedStyle(drawn);
    const isMarked = at.matches("svg a")
        ? style.stroke !== "none" && parseFloat(style.strokeWidth) > 1
        : style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 1;
    const over = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
    const isSeen = over && (at.contains(over) || over.contains(at));
    return isMarked && isSeen ? "" : `${isMarked ? "hidden" : "unmarked"}: ${at.outerHTML.slice(0, 200)}`;
}"""


def test_what_has_the_focus_is_marked_and_in_sight_all_the_way_down_and_up(browser: Browser, site: Site) -> None:
    found = []
    with site.visited(browser, reduced_motion="reduce") as visit:
        page = visit.open()
        for key in ["Tab"] * 60 + ["Shift+Tab"] * 40:
            page.keyboard.press(key)
            found.append(page.evaluate(MARK_OF_FOCUS))
    assert [mark for mark in found if mark] == []
    assert found.count("") > 95


def test_the_way_back_keeps_the_filters_and_their_fields(page: Page) -> None:
    page.get_by_label("Resource", exact=True).fill("Churn")
    page.get_by_label("Resource", exact=True).press("Enter")
    expect(page.locator(".line")).to_have_count(3)
    assert page.url.endswith("/settings/audit-log?resource=Churn")
    page.get_by_role("link", name="Show all").click()
    expect(page.locator(".line")).to_have_count(50)
    page.go_back()
    expect(page.locator(".line")).to_have_count(3)
    assert page.get_by_label("Resource", exact=True).input_value() == "Churn"
    page.go_back()
    expect(page.locator(".line")).to_have_count(50)
    assert page.locator(".filters :disabled").count() == 0


def test_signing_in_leads_to_what_was_asked_for_and_out_again(browser: Browser, site: Site) -> None:
    with site.visited(browser, letter="") as visit:
        page = visit.open("?resource=Churn")
        page.get_by_label("API key").fill("daybook_" + "a" * 43)
        page.get_by_role("button", name="Sign in").click()
        expect(page.locator(".line")).to_have_count(3)
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Sign in to the audit log")
        page.go_back()
        expect(page.get_by_role("heading", level=1)).to_have_text("Sign in to the audit log")


def test_an_entry_is_copied_as_json(browser: Browser, site: Site) -> None:
    with site.visited(browser, permissions=["clipboard-read", "clipboard-write"]) as visit:
        page = visit.open(f"/entry/{site.names['made']}")
        page.get_by_role("button", name="Copy as JSON").click()
        expect(page.get_by_role("button", name="Copied")).to_be_visible()
        copied = page.evaluate("navigator.clipboard.readText().then(JSON.parse)")
    assert (copied["id"], copied["performer"]["name"]) == (site.names["made"], "Cy Mercer")
