"""The requests that are measured: a name each, and the path and query that ask it of a log.

A request that the app does not know (yet) has no path.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode, urlsplit

from .contents import (
    CHOSEN_RESOURCE,
    COMMON_EVENT,
    COMMON_PERFORMER,
    COMMON_WORD,
    NO_EVENT,
    NO_WORD,
    RARE_EVENT,
    RARE_PERFORMER,
    RARE_WORD,
    RESOURCE_TYPE,
    SHARE_OF_LARGEST,
    Planted,
)
from .serving import App, ask_once

API = "/api/v1/notification/"
WORKSPACE = f"{API}workspace/"
PAGE_SIZE = 50
DEEP_PAGE = 10_000

Questions = dict[str, str | None]


async def questions(app: App, entries: int, smallest: int, planted: Mapping[str, Planted]) -> Questions:
    """What is asked of a log of so many entries; `smallest` are those of the smallest log that is asked the same."""
    middle, bulk = planted["middle"], planted["largest bulk"]
    day = datetime.fromtimestamp(middle.moment // 1_000_000, UTC).date()
    # A little less than the share that the largest workspace has, so that every log has the page.
    share = SHARE_OF_LARGEST * 0.95
    deep_size = max(1, min(PAGE_SIZE, int(smallest * share / DEEP_PAGE)))
    deep_page = min(DEEP_PAGE, int(smallest * share / deep_size))
    changes = f"{API}entry/{bulk.id}/changes/"
    return {
        "first page": WORKSPACE,
        f"page {deep_page:,} of {deep_size} each": of(page=deep_page, page_size=deep_size),
        "page in the middle": of(page=max(1, int(entries * share / PAGE_SIZE / 2))),
        "last page": of(page="last"),
        "second page as of now": await second_page_as_of_now(app),
        "cursor step in the middle": await cursor_in_the_middle(app),
        "log of a resource with 500 entries": f"{API}resource/?{urlencode({'resource_id': CHOSEN_RESOURCE})}",
        "event, common": of(event=COMMON_EVENT),
        "event, rare": of(event=RARE_EVENT),
        "event, none": of(event=NO_EVENT),
        "performer_id, common": of(performer_id=COMMON_PERFORMER),
        "performer_id, rare": of(performer_id=RARE_PERFORMER),
        "resource_type": of(resource_type=RESOURCE_TYPE),
        "created_after and _before, one day": of(created_after=day, created_before=day + timedelta(days=1)),
        "request_id": of(request_id=middle.request_id),
        **await words(app),
        "facets": await known(app, f"{API}facets/"),
        "one entry": f"{API}entry/{middle.id}/",
        "changes of the largest bulk entry, first page": changes,
        "changes of the largest bulk entry, last page": f"{changes}?page=last",
    }


def of(**parameters: object) -> str:
    """The workspace's list with these parameters."""
    return f"{WORKSPACE}?{urlencode(parameters)}"


async def known(app: App, path: str) -> str | None:
    """The path, unless nothing is found there."""
    return None if (await ask_once(app, path)).status == 404 else path


async def words(app: App) -> Questions:
    """Searches for words, where a word that stands nowhere finds nothing: an app without `q` ignores it."""
    answer = await ask_once(app, of(q=NO_WORD))
    asked = {"q, common word": of(q=COMMON_WORD), "q, rare word": of(q=RARE_WORD), "q, no such word": of(q=NO_WORD)}
    is_known = answer.status == 200 and answer.json()["count"] == 0
    return {name: path if is_known else None for name, path in asked.items()}


async def second_page_as_of_now(app: App) -> str | None:
    """Where the next page of a frozen walk is; nothing when the link does not freeze it."""
    following = (await ask_once(app, of(as_of="now"))).json().get("next")
    if not isinstance(following, str) or "as_of=now" in following or "as_of=" not in following:
        return None
    return _path(following)


async def cursor_in_the_middle(app: App) -> str | None:
    """A step of a cursor that began 45 days ago."""
    meta: Any = (await ask_once(app, of(days=45, cursor=""))).json().get("meta", {})
    cursor = meta.get("cursor")
    return of(cursor=cursor) if isinstance(cursor, str) else None


def _path(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}"
