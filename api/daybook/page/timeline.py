"""Timeline is the list of entries: by day, narrowed and paged by its address, with the histogram over it.

It knows no SQL; every text of the log passes through sentences.show and the templates' escaping.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
from litestar import Response, get
from markupsafe import Markup

from .. import queries
from ..addresses import Pairs, parse_query
from ..catalogue import LEVELS, Catalogue, Choice, Name
from ..credentials import Reader
from ..database import Row
from ..errors import WrongParameters
from ..parameters import Listing
from ..routes import AnyRequest, TheDatabase, TheReader, TheSettings
from ..sentences import Line, by_day, stored_values, write_line
from .differences import summarise
from .frame import PATH, Frame, Paging, render
from .health import Watch
from .histogram import draw
from .markup import sentence
from .narrowing import FIELDS, is_narrowed, parse_page_listing, without_page, write_chips, write_menus

# Everything but what reading the log leaves, as the lists without filters have it.
UNREAD = {"not_reading": True}


class Shown(NamedTuple):
    """A line with its sentence, the columns of an update in short, and its address; `more`: further columns."""

    line: Line
    said: Markup
    summary: Sequence[tuple[str, str, str]]
    more: int
    address: str


def columns_named(catalogue: Catalogue) -> list[str]:
    """The columns whose values sentences say."""
    found = set(LEVELS)
    for phrase in catalogue.phrases.values():
        for part in phrase:
            names = part.names if isinstance(part, Choice) else (part.name,) if isinstance(part, Name) else ()
            found |= {name.partition(".")[2] for name in names if name.startswith(("before.", "after."))}
    return sorted(found)


def write_lines(rows: Sequence[Row], catalogue: Catalogue, frame: Frame) -> list[Shown]:
    """Entries as the timeline shows them."""
    columns = tuple(rows[0]) if rows else ()
    shown = []
    for row in rows:
        # JSON as the database sent it cannot be told apart otherwise.
        values = tuple(bytes(value) if isinstance(value, msgspec.Raw) else value for value in row.values())
        shown.append(_written(columns, values, catalogue, frame))
    return shown


@lru_cache(maxsize=2048)
def _written(columns: tuple[str, ...], values: tuple[Any, ...], catalogue: Catalogue, frame: Frame) -> Shown:
    """An entry as the timeline shows it, remembered by all that was read of it: most were on the page before."""
    row: Row = dict(zip(columns, values, strict=True))
    stored = stored_values(row)
    line = write_line(row, catalogue, stored)
    told, more = summarise(stored) if row["operation"] == "UPDATE" and row["row_count"] == 1 else ([], 0)
    return Shown(line, sentence(line, frame), told, more, frame.entry(line.id))


def days_of(lines: Sequence[Shown]) -> list[tuple[str, str, list[Shown]]]:
    """The lines under the UTC day that each belongs to."""
    of = {shown.line.id: shown for shown in lines}
    return [(date, name, [of[line.id] for line in day]) for date, name, day in by_day([s.line for s in lines])]


def form_values(query: Pairs) -> dict[str, Any]:
    """What stands in the form, and what is kept beside its fields."""
    given = {name: value for name, value in query if value}
    values = {name: given.get(name, "") for name in FIELDS}
    kept = [pair for pair in without_page(query) if pair[0] not in FIELDS]
    return {"values": values | {"days": given.get("days", "90")}, "kept": kept}


@get(PATH, include_in_schema=False)
async def show_timeline(
    request: AnyRequest, reader: TheReader, database: TheDatabase, settings: TheSettings
) -> Response[bytes]:
    """The timeline, filtered and paged by its address."""
    query = parse_query(request.scope["query_string"])
    frame, catalogue = Frame.of(request, settings), settings.catalogue
    shown: dict[str, Any] = {
        "reader": reader,
        "form": form_values(query),
        "narrowed": is_narrowed(query),
        "wrong": [],
        "warnings": [],
    }
    try:
        listing = parse_page_listing(query, reader)
        found, overview = await queries.find_timeline(database, reader, listing, columns_named(catalogue))
    except WrongParameters as refusal:
        wrong = [f"{name}: {' '.join(sentences)}" for name, sentences in refusal.body.items()]
        menus = write_menus((), None, catalogue)
        shown |= {"wrong": wrong, "menus": menus, "chips": [], "found": None, "histogram": None}
        return render("timeline.html", frame, settings, refusal.status, **shown)
    watch: Watch = request.app.state.watch
    narrowing = without_page(query)
    return render(
        "timeline.html",
        frame,
        settings,
        **shown
        | {
            "warnings": await watch.warnings(),
            "menus": write_menus(query, overview, catalogue),
            "chips": write_chips(query, listing, frame, catalogue, found.rows),
            "found": found,
            "days": days_of(write_lines(found.rows, catalogue, frame)),
            "histogram": draw(overview, listing, reader.moment, reader.oldest, query, frame),
            "paging": Paging.of(found, frame.root, query),
            "export": frame.link("/export", narrowing),
            "past": asked_before(query, reader),
            "empty": not found.count and not is_narrowed(query),
        },
    )


def asked_before(query: Pairs, reader: Reader) -> str:
    """Whether days were asked for that are not kept: `all` of them, `some`, or none."""
    given = {name: value for name, value in query if value}
    first = given.get("from") or given.get("created_after")
    last = given.get("until") or given.get("created_before")
    oldest = reader.oldest.date().isoformat()
    if last and last[:10] < oldest:
        return "all"
    return "some" if first and first[:10] < oldest else ""


@get(PATH + "/people", include_in_schema=False)
async def show_people(
    request: AnyRequest, reader: TheReader, database: TheDatabase, settings: TheSettings
) -> Response[bytes]:
    """Who has entries, most first, each with a link to them: what the user field offers."""
    frame = Frame.of(request, settings)
    facets = await queries.find_facets(database, reader, Listing(reader.oldest, reader.horizon, filters=UNREAD))
    kept = without_page(parse_query(request.scope["query_string"]), "user", "performer_id")
    people = [
        (row["value"], row["name"], row["count"], frame.link("", [*kept, ("performer_id", row["value"])]))
        for row in facets.performers
    ]
    return render("people.html", frame, settings, reader=reader, people=people, most=queries.SHOWN_PERFORMERS)
