"""Every state of the page in a real browser: accessible, valid, within its width, harmless whatever the log holds.

It must not ask what an administrator does with it: tests/test_browser.py does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any, NamedTuple

import html5lib
import html5lib.constants
import psycopg
import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, Page, expect

from tests.browsing import Site, Visit, catalog_site, launched, troubled_site
from tests.conftest import TestServer
from tests.reading import add_changes, add_entry, add_key, add_session, key_for, today

pytestmark = pytest.mark.xdist_group("browser_states")


class State(NamedTuple):
    """A state of the page: whose it is (the letter of a key), where, and words that only it says."""

    name: str
    letter: str
    address: str
    words: str
    site: str = "catalog"


STATES = [
    State("timeline", "a", "", "Grace Hopper deleted the dashboard Revenue KPIs"),
    State("opened", "a", "?q=revenue", "Grace Hopper (7), user"),
    State("filtered", "a", "?user=Cy+Mercer&type=resource&from={week}", "Remove the filter: done by Cy Mercer"),
    State("entry", "a", "/entry/{deleted}", "Monthly, in EUR"),
    State("bulk entry", "a", "/entry/{bulk}", "55 rows, these are 1 to 50."),
    State("resource", "a", "/resource?type=dashboard&id=81", "As it is, by its last entry"),
    State("resource then", "a", "/resource?type=dashboard&id=81&at={made}", "As it was on"),
    State("deleted resource", "a", "/resource?type=dashboard&id=7", "it has been deleted"),
    State("unknown resource", "a", "/resource?type=dashboard&id=0", "Nothing is known of it"),
    State("export", "a", "/export?q=revenue", "2 entries, since"),
    State("nothing to export", "a", "/export?q=nowhere", "There is nothing to export"),
    State("people", "a", "/people", "Cy Mercer"),
    State("nothing yet", "s", "", "Nothing has been logged yet"),
    State("nothing matches", "a", "?q=nowhere", "Nothing matches these filters"),
    State("unreadable filters", "a", "?days=x", "These filters cannot be read:"),
    State("outside retention", "a", "?until=2020-01-01", "the days asked for are older"),
    State("not found", "a", "/entry/01a201fd-7ec0-7000-baf9-17da25721cbf", "There is no such entry"),
    State("not allowed", "m", "", "This key's role may not read the audit log."),
    State("signed out", "", "", "An administrator makes keys with"),
    State("wrong key", "", "/sign-in", "This key is not valid."),
    State("framed", "a", "?frame=none&q=revenue", "2 entries match"),
    State("hostile", "h", "", "updated the"),
    State("banner", "a", "", "The log's upkeep is late.", "troubled"),
    State("could not read", "a", "?q=plan", "The log cannot be read at the moment.", "troubled"),
]  # fmt: skip
every_state = pytest.mark.parametrize("state", STATES, ids=[state.name.replace(" ", "_") for state in STATES])


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def sites(browser: Browser, server: TestServer) -> Iterator[dict[str, Site]]:
    with catalog_site(server) as catalog, troubled_site(server) as troubled:
        catalog.names.update(write_hostile(catalog.database.connect()))
        catalog.names["week"] = str(today(hours=-24 * 7).date())
        yield {"catalog": catalog, "troubled": troubled}


def reach(visit: Visit, site: Site, state: State) -> str:
    """Bring a page into a state and return the HTML that came for it; the words of the state are there."""
    with ExitStack() as until_it_is_there:
        if state.name == "could not read":
            writer = site.database.connect(autocommit=False)
            until_it_is_there.callback(writer.rollback)
            writer.execute("lock table audit.entry in access exclusive mode")
        answer = visit.page.goto(visit.base + "/settings/audit-log" + state.address.format(**site.names))
        assert answer is not None
        html = answer.text()
    if state.name == "opened":
        visit.page.locator(".line > a.when").first.click()
    if state.name == "wrong key":
        visit.page.get_by_label("API key").fill("daybook_x")
        with visit.page.expect_response("**/sign-in") as sent:
            visit.page.get_by_role("button", name="Sign in").click()
        html = sent.value.text()
    expect(visit.page.locator("body")).to_contain_text(state.words)
    return html


# Accessible: WCAG 2.0 to 2.2, A and AA

AXE_OPTIONS: dict[str, Any] = {
    "light": {
        "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22a", "wcag22aa", "best-practice"],
        "rules": {"target-size": {"enabled": True}},
        "resultTypes": ["violations"],
    },
    # The same page but for its colours, so that the other rules would say the same again.
    "dark": {
        "runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]},
        "resultTypes": ["violations"],
    },
}
FIND_VIOLATIONS = """async (options) => (await axe.run(document, options)).violations.flatMap(
    (rule) => rule.nodes.map((node) => `${rule.id}: ${node.html} ${node.failureSummary}`))"""


@pytest.mark.parametrize("theme", ["light", "dark"])
@every_state
def test_axe_finds_nothing(browser: Browser, sites: dict[str, Site], state: State, theme: Any) -> None:
    site = sites[state.site]
    with site.visited(browser, state.letter, color_scheme=theme, reduced_motion="reduce") as visit:
        reach(visit, site, state)
        visit.page.locator("details.more").evaluate_all("all => all.forEach(one => one.open = true)")
        visit.page.evaluate(AXE_SCRIPT)
        assert visit.page.evaluate(FIND_VIOLATIONS, AXE_OPTIONS[theme]) == []


# Valid, still, small, within its width


def mistakes_of(html: str) -> list[str]:
    """What a strict parser of HTML finds wrong, and what points to nothing.

    A value of a menu is sent back as it is, with whatever control characters the log has in it.
    """
    parser = html5lib.HTMLParser(namespaceHTMLElements=False)
    tree = parser.parse(html)
    found = [
        f"{html5lib.constants.E[code] % values} at {place}"
        for place, code, values in parser.errors
        if code != "invalid-codepoint"
    ]
    ids = [node.get("id") for node in tree.iter() if node.get("id")]
    found += [f"id twice: {name}" for name in ids if ids.count(name) > 1]
    for node in tree.iter():
        for name in ("for", "aria-labelledby", "aria-describedby", "aria-controls", "list"):
            found += [f"{name} of nothing: {word}" for word in node.get(name, "").split() if word not in ids]
    return found


def test_the_check_of_html_finds_mistakes() -> None:
    html = '<!doctype html><title>x</title><p><div>a</p><b><i></b></i><label for="n">x</label><a id="c"></a><a id="c">'
    assert len(mistakes_of(html)) > 6


@every_state
def test_its_html_is_valid_and_it_fits_narrow_and_magnified(
    browser: Browser, sites: dict[str, Site], state: State
) -> None:
    site = sites[state.site]
    with site.visited(browser, state.letter, viewport={"width": 320, "height": 640}, timezone_id="Asia/Tokyo") as visit:
        assert mistakes_of(reach(visit, site, state)) == []
        page = visit.page
        # 320 px; 1280 px at 200 %; 1280 px with letters twice as large.
        widths = [width_of(page)]
        page.set_viewport_size({"width": 640, "height": 450})
        widths.append(width_of(page))
        page.set_viewport_size({"width": 1280, "height": 900})
        page.evaluate("document.documentElement.style.fontSize = '200%'")
        widths.append(width_of(page))
        assert widths == [320, 640, 1280]
        assert visit.hosts == {f"127.0.0.1:{site.port}"}


def width_of(page: Page) -> int:
    """How wide the page is with all that stands out of it."""
    return page.evaluate("Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)")  # type: ignore[no-any-return]


SHIFT = """() => new Promise((done) => {
    let sum = 0;
    new PerformanceObserver((list) => { for (const entry of list.getEntries()) sum += entry.value; })
        .observe({ type: "layout-shift", buffered: true });
    setTimeout(() => done(sum), 300);
})"""


@pytest.mark.parametrize("width", [320, 1280])
def test_a_first_visit_is_small_and_nothing_moves_when_it_is_there(
    browser: Browser, sites: dict[str, Site], width: int
) -> None:
    site = sites["catalog"]
    size = {"width": width, "height": 900}
    with site.visited(browser, timezone_id="Asia/Tokyo", viewport=size) as visit:
        sizes: list[int] = []
        visit.page.on("requestfinished", lambda request: sizes.append(request.sizes()["responseBodySize"]))
        page = visit.open()
        expect(page.locator(".zone")).to_have_text("Times are Asia/Tokyo, days are UTC; point at a time for both.")
        assert page.evaluate(SHIFT) == 0
        page.wait_for_load_state("networkidle")
        assert (len(sizes) >= 3, sum(sizes) < 60 * 1024) == (True, True)


# Harmless

TEXTS = [
    "<script>window.ran = 1</script>",
    "\"><img src=x onerror=window.ran=1>",
    "'><svg onload=window.ran=1>",
    "</title></textarea></select></style><script>alert(1)</script>",
    "<iframe srcdoc='<script>parent.ran=1</script>'>",
    "<a href=javascript:window.ran=1 autofocus onfocus=window.ran=1>x</a>",
    "<img src=//evil.example/a.png><link rel=stylesheet href=//evil.example/a.css>",
    "<meta http-equiv=refresh content='0;url=//evil.example/'>",
    "<form action=//evil.example/><button>Sign in</button></form><base href=//evil.example/>",
    "{{ 7 * 7 }}{% raw %}${alert(1)}",
    "--><!--<!DOCTYPE x>]]>&lt;script&gt;&#60;",
    "javascript:alert(1)",
    "constructor",
    "__proto__",
    "\u202egnp.exe\u202c\u2066\u200b\u0001\u0007",
    "عمر الخيام",
    "a" * 400,
]  # fmt: skip
HOSTILE = "".join(TEXTS)


def write_hostile(db: psycopg.Connection[Any]) -> dict[str, str]:
    """A workspace where every name and value is one of the texts, or all of them."""
    now = datetime.now(UTC)  # the hours before are counted already
    add_key(db, key_for("h"), HOSTILE, "admin")
    add_session(db, "h")
    for text in TEXTS:
        last = add_entry(
            db, now, workspace_id=HOSTILE, resource_id=text, resource_name=text, resource_type=text, actor_id=text,
            actor_name=text, before={text: text}, after={text: {text: [text]}}, request_id=text[:100],
            context={"reason": text, "subject": {"id": text, "name": text}, "ip": text, "user_agent": text},
        )  # fmt: skip
    many = add_entry(
        db, now, workspace_id=HOSTILE, resource_type=HOSTILE, resource_id=None, row_count=3, actor_id=HOSTILE,
        actor_name=HOSTILE, event="permission_granted", before={HOSTILE: 1}, after={HOSTILE: 2},
    )  # fmt: skip
    add_changes(db, many, range(1, 4))
    db.execute("alter table audit.change disable trigger all")
    db.execute(
        "update audit.change set resource_id = %(text)s, resource_name = %(text)s,"
        " before = jsonb_build_object(%(text)s::text, %(text)s::text),"
        " after = jsonb_build_object(%(text)s::text, '[1]'::jsonb) where entry_id = %(entry)s",
        {"text": HOSTILE, "entry": many},
    )
    return {"hostile": last, "hostile_rows": many, "text": "".join(f"%{byte:02x}" for byte in HOSTILE.encode())}


PLACES = [
    "",
    "?user={text}&resource={text}&q={text}&resource_type={text}&request_id=r",
    "?frame={text}&{text}={text}&event={text}",
    "/people",
    "/entry/{hostile}",
    "/entry/{hostile_rows}",
    "/entry/{text}",
    "/resource?type={text}&id={text}",
    "/resource?type={text}&id={text}&at={text}",
    "/export?user={text}&q={text}",
    "/sign-in?back={text}&q={text}",
]


@pytest.mark.parametrize("policy", [True, False], ids=["with_the_policy", "without_the_policy"])
def test_hostile_text_does_nothing(browser: Browser, sites: dict[str, Site], policy: bool) -> None:
    site = sites["catalog"]
    with site.visited(browser, "h", bypass_csp=not policy) as visit:
        for place in PLACES:
            page = visit.open(place.format(**site.names))
            if place == "":
                assert page.locator(".line").count() == len(TEXTS) + 1
                for line in page.locator(".line > a.when").all():
                    line.click()
                expect(page.locator(".line.open")).to_have_count(len(TEXTS) + 1)
                page.get_by_label("User", exact=True).focus()
                expect(page.locator("datalist option")).to_have_count(len(TEXTS) + 1)
            assert page.evaluate("window.ran") is None, place
            added = "script:not([src*='/assets/daybook.']), img, iframe, base, style, [onerror], [onload], [onfocus]"
            assert page.locator(added).count() == 0, place
        # The console says that pages with a refusal are answered so, and nothing else.
        said = [text for text in visit.said if not re.match("Failed to load resource: .* status of 40[034] ", text)]
        assert (said, visit.hosts) == ([], {f"127.0.0.1:{site.port}"})


# As the reader wants it


def test_print_has_the_entries_and_nothing_to_press(browser: Browser, sites: dict[str, Site]) -> None:
    with sites["catalog"].visited(browser, color_scheme="dark") as visit:
        page = visit.open("?q=revenue")
        page.emulate_media(media="print")
        expect(page.get_by_text("Grace Hopper deleted the dashboard Revenue KPIs")).to_be_visible()
        expect(page.locator(".chips")).to_contain_text("holds the words revenue")
        for gone in ("form.filters", ".session", ".keys-button", ".title .button", ".chips a"):
            expect(page.locator(gone).first).to_be_hidden()
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


@pytest.mark.parametrize(("wish", "motion"), [("reduce", "auto"), ("no-preference", "smooth")])
def test_who_wants_less_motion_gets_none(browser: Browser, sites: dict[str, Site], wish: Any, motion: str) -> None:
    with sites["catalog"].visited(browser, reduced_motion=wish) as visit:
        page = visit.open()
        assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == motion
        moving = "all => all.filter(one => parseFloat(getComputedStyle(one).transitionDuration) > 0).length"
        assert page.locator("*").evaluate_all(moving) == 0


def test_names_from_right_to_left_do_not_turn_what_stands_beside_them(browser: Browser, sites: dict[str, Site]) -> None:
    site = sites["catalog"]
    arabic = {"actor_id": "r-1", "actor_name": "عمر الخيام", "resource_id": "r-2", "resource_name": "رباعيات"}
    add_entry(site.database.connect(), datetime.now(UTC), before={"title": "قديم"}, after={"title": "جديد"}, **arabic)
    with site.visited(browser) as visit:
        line = visit.open("?performer_id=r-1").locator(".line")
        expect(line.locator(".what > p").first).to_have_text("عمر الخيام updated the document رباعيات")
        places = [box["x"] for one in line.locator("a.name, del, ins").all() if (box := one.bounding_box())]
        assert len(places) == 4
        assert (places[0] < places[1], places[2] < places[3]) == (True, True)


def test_forced_colours_leave_bars_buttons_and_the_focus(browser: Browser, sites: dict[str, Site]) -> None:
    with sites["catalog"].visited(browser, forced_colors="active", color_scheme="dark") as visit:
        page = visit.open()
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        fill = "path => getComputedStyle(path).fill"
        assert page.locator(".histogram path").first.evaluate(fill) != paper
        page.get_by_role("button", name="Show").focus()
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Tab")
        style = "one => { const s = getComputedStyle(one); return [s.outlineStyle, s.borderTopStyle]; }"
        assert page.get_by_role("button", name="Show").evaluate(style) == ["solid", "solid"]
