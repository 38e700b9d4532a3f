"""Parameters are the query parameters of the lists: read, bounded and documented here, and nowhere else.

Nothing here knows SQL; a parameter that cannot be read is a refusal that names it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Literal, TypeVar

from .addresses import Pairs
from .counts import END
from .credentials import Reader
from .errors import InvalidPage, WrongParameters
from .positions import EPOCH, Frozen, Position

T = TypeVar("T")
Page = int | Literal["last"]

DEFAULT_DAYS = 90
DEFAULT_PAGE_SIZE = 50
MAXIMUM_PAGE_SIZE = 1000
EXPANSIONS = ("changes", "context", "actor", "resource")
FILTERS = (
    "days",
    "event",
    "performer_id",
    "resource_type",
    "resource_id",
    "created_after",
    "created_before",
    "request_id",
    "q",
    "as_of",
)
# What facets can be narrowed by.
COUNTED = ("event", "performer_id", "resource_type")
NO_WALK = "Give now, or what the next page of the walk gives."
REQUIRED = "This field is required."
LONGEST_TEXT = 10_000

# What may stand for a parameter, as openapi.py says it too. In a query a plus that was not escaped arrives as a space.
NUMBER_FROM_ONE = "[ +]?0*[1-9][0-9]*"
EVENT = r"[a-z0-9_]{1,63}\*?|\*"
# RFC 3339, 5.6, and a date alone; the seconds and the offset may be left out.
_DATE = (
    "(?!0000)[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    "|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    "|(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)-02-29"
)
_HOUR_AND_MINUTE = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_OFFSET = "[Zz]|[ +-](?:[01][0-9]|2[0-3]):?[0-5][0-9]"
MOMENT = rf"(?:{_DATE})(?:[Tt ]{_HOUR_AND_MINUTE}(?::[0-5][0-9](?:\.[0-9]{{1,9}})?)?(?:{_OFFSET})?)?"

# Greater than every number that could mean something, and small enough for a bigint after a multiplication.
_IMMENSE = 10**12
_INTEGER = re.compile(r"([ +-]?)([0-9]+)", re.ASCII)
_EVENT = re.compile(EVENT)
_MOMENT = re.compile(MOMENT)


@dataclass(frozen=True, slots=True)
class Listing:
    """What a request for a list asks for: entries from `lower` up to `upper` that meet the filters.

    `filters` are names of filters.FILTERS, and of what these need, with their values. `cursor` is there for a step
    forward instead of a page, `frozen` for a walk that stays as it was.
    """

    lower: datetime
    upper: datetime = END
    page: Page = 1
    page_size: int = DEFAULT_PAGE_SIZE
    filters: Mapping[str, object] = field(default_factory=dict)
    expand: frozenset[str] = frozenset()
    cursor: Position | None = None
    frozen: Frozen | None = None


def parse_integer(text: str) -> int | None:
    """The integer that ASCII digits with an optional sign write, brought near zero when immense; None for others.

    One space before the digits is a plus.
    """
    match = _INTEGER.fullmatch(text)
    if match is None:
        return None
    digits = match[2].lstrip("0") or "0"
    size = int(digits) if len(digits) <= len(str(_IMMENSE)) else _IMMENSE
    return -size if match[1] == "-" else size


def parse_page(query: Pairs) -> Page:
    """The page asked for: empty or missing is 1, the last of several counts. Raises InvalidPage."""
    text = _last(query, "page")
    if text in ("", "last"):
        return 1 if text == "" else "last"
    page = parse_integer(text)
    if page is None or page < 1:
        raise InvalidPage
    return page


def parse_page_size(query: Pairs) -> int:
    """The page size asked for: the default for what is none, the maximum for what is above; the last of several."""
    size = parse_integer(_last(query, "page_size"))
    return DEFAULT_PAGE_SIZE if size is None or size < 1 else min(size, MAXIMUM_PAGE_SIZE)


def parse_listing(query: Pairs, reader: Reader, *, resource_required: bool = False, paged: bool = True) -> Listing:
    """Read the parameters of a list of entries. Raises WrongParameters with all wrong ones, then InvalidPage.

    What is not `paged` has neither pages nor cursors to ask for.
    """
    form = Form(query)
    listing = parse_window(form, reader)
    filters = parse_filters(form)
    if resource_required and "resource_id" not in filters and "resource_id" not in form.wrong:
        form.wrong["resource_id"] = [REQUIRED]
    expand = form.take_all("expand", _expansion)
    cursor = parse_cursor(form, listing.lower) if paged else None
    form.refuse_wrong()
    return replace(
        listing,
        page=parse_page(query) if paged and cursor is None else 1,
        page_size=parse_page_size(query),
        filters=filters,
        expand=frozenset(expand),
        cursor=cursor,
    )


def parse_facets(query: Pairs, reader: Reader) -> Listing:
    """Read the parameters of the facets: those of a list that the counts know. Raises WrongParameters."""
    form = Form(query)
    listing = replace(parse_window(form, reader), filters=parse_filters(form, COUNTED))
    form.refuse_wrong()
    return listing


def parse_window(form: Form, reader: Reader) -> Listing:
    """From when to when a list goes; what else it asks for is not read."""
    days = form.take("days", parse_days, DEFAULT_DAYS)
    after = form.take("created_after", parse_moment, None)
    before = form.take("created_before", parse_moment, None)
    frozen = form.take("as_of", partial(_frozen, reader), None)
    lower = reader.since(days, frozen.asked_at if frozen else None)
    upper = min(before or reader.horizon, frozen.watermark if frozen else reader.horizon, reader.horizon)
    return Listing(max(lower, after or lower), upper, frozen=frozen)


def _frozen(reader: Reader, text: str) -> Frozen:
    now = reader.watermark or datetime.min.replace(tzinfo=UTC)
    if text == "now":
        return Frozen(max(now, EPOCH), reader.moment)
    try:
        found = Frozen.read(text, reader.workspace_id)
    except ValueError:
        raise ValueError(NO_WALK) from None
    if found.watermark > max(now, EPOCH):
        raise ValueError(NO_WALK)
    return found


def parse_cursor(form: Form, lower: datetime) -> Position | None:
    """Where a cursor stands: an empty one before everything from `lower` on; None when none is given."""
    given = [value for name, value in form.query if name == "cursor"]
    if not given:
        return None
    if _last(form.query, "page"):
        form.wrong["cursor"] = ["Give either cursor or page."]
    return form.take("cursor", _position, Position.at(max(lower, EPOCH)))


def _position(text: str) -> Position:
    try:
        return Position.read(text)
    except ValueError:
        raise ValueError("Give the cursor that an answer gave, or an empty one to begin with.") from None


def given_filters(query: Pairs) -> dict[str, list[str]]:
    """The filters of a list as they were asked for, for the record of an export."""
    given: dict[str, list[str]] = {}
    for name, value in query:
        if name in FILTERS:
            given.setdefault(name, []).append(value)
    return given


def parse_filters(form: Form, names: Collection[str] = FILTERS) -> dict[str, object]:
    """The additive filters that were given, by their names; empty ones count as not given.

    `names` are those that are read, the others are not there.
    """
    given = {
        "performer_id": form.take("performer_id", str, None),
        "resource_type": form.take("resource_type", str, None),
        "resource_id": form.take("resource_id", str, None) if "resource_id" in names else None,
        "request_id": form.take("request_id", str, None) if "request_id" in names else None,
        "q": form.take("q", _words, None) if "q" in names else None,
    }
    filters: dict[str, object] = {name: value for name, value in given.items() if value is not None}
    return filters | event_filters(form.take_all("event", _event))


def _words(text: str) -> str:
    if not any(character.isalnum() for character in text):
        raise ValueError("Give at least one word.")
    return text


def event_filters(events: Sequence[str]) -> dict[str, object]:
    """The filters for these events, each a name or `beginning_*`; reading the log is left out unless it is named."""
    filters: dict[str, object] = {}
    if events:
        filters["event"] = [event for event in events if not event.endswith("*")]
        filters["event_beginnings"] = [event[:-1].replace("_", r"\_") + "%" for event in events if event[-1] == "*"]
    if not any(event.startswith("log_") for event in events):
        filters["not_reading"] = True
    return filters


def parse_expand(query: Pairs) -> frozenset[str]:
    """The keys that an entry is to have besides its own. Raises WrongParameters."""
    form = Form(query)
    expand = frozenset(form.take_all("expand", _expansion))
    form.refuse_wrong()
    return expand


class Form:
    """The parameters of one request and, as they are taken, the sentences on the wrong ones."""

    def __init__(self, query: Pairs) -> None:
        self.query = query
        self.wrong: dict[str, list[str]] = {}

    def take(self, name: str, parse: Callable[[str], T], default: T) -> T:
        """The parsed value of a parameter that is given once; the default when it is missing or empty."""
        values = [value for key, value in self.query if key == name]
        if len(values) > 1:
            self.wrong[name] = ["Give this parameter once."]
            return default
        try:
            return parse(_checked(values[0])) if values and values[0] else default
        except ValueError as error:
            self.wrong[name] = [str(error)]
            return default

    def take_all(self, name: str, parse: Callable[[str], T]) -> list[T]:
        """The parsed values of a parameter that may be repeated and hold several, separated by commas."""
        texts = [part.strip(" ") for key, value in self.query if key == name for part in value.split(",")]
        try:
            return [parse(_checked(text)) for text in texts if text]
        except ValueError as error:
            self.wrong[name] = [str(error)]
            return []

    def refuse_wrong(self) -> None:
        """Raise WrongParameters when any parameter was wrong."""
        if self.wrong:
            raise WrongParameters(self.wrong)


def parse_moment(text: str) -> datetime:
    """A date (its first moment) or a time by RFC 3339, in UTC unless it says otherwise. Raises ValueError.

    What lies beyond the calendar in UTC is its first or last moment.
    """
    if not _MOMENT.fullmatch(text):
        raise ValueError("Give a date or time such as 2026-03-14 or 2026-03-14T09:30:00Z.")
    # Behind the time a space is the plus of the offset.
    moment = datetime.fromisoformat(text[:11].upper() + text[11:].upper().replace(" ", "+"))
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        return (datetime.min if moment.year == 1 else datetime.max).replace(tzinfo=UTC)


def _last(query: Pairs, name: str) -> str:
    return next((value for key, value in reversed(query) if key == name), "")


def _checked(text: str) -> str:
    if "\0" in text:
        raise ValueError("Null characters are not allowed.")
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"Ensure this field has no more than {LONGEST_TEXT} characters.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("This is not valid UTF-8.") from None
    return text


def parse_days(text: str) -> int:
    """The number of days that a text writes. Raises ValueError."""
    days = parse_integer(text)
    if days is None:
        raise ValueError("A valid integer is required.")
    if days < 1:
        raise ValueError("Ensure this value is greater than or equal to 1.")
    return days


def _event(text: str) -> str:
    if not _EVENT.fullmatch(text):
        raise ValueError("Give names of events such as resource_updated, or their beginning such as resource_*.")
    return text


def _expansion(text: str) -> str:
    if text not in EXPANSIONS:
        raise ValueError(f"Choose among {', '.join(EXPANSIONS)}.")
    return text
