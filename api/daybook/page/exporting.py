"""Exporting is the page that says what an export will hold before it begins, and the exports for who is signed in."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from litestar import Response, get
from litestar.di import Provide
from litestar.response import Stream

from .. import queries
from ..addresses import Pairs, parse_query
from ..errors import WrongParameters
from ..exports import CSV_EXPANSIONS, write_csv, write_ndjson
from ..parameters import FILTERS, Listing
from ..routes import (
    AnyRequest,
    TheDatabase,
    TheListing,
    TheReader,
    TheSettings,
    asked_by,
    export_entries,
    stream_export,
)
from .frame import PATH, Frame, render
from .narrowing import OWN, parse_page_listing, without_page, write_chips

EXPORT = PATH + "/export"


async def provide_page_listing(request: AnyRequest, reader: TheReader) -> Listing:
    """What the page's filters ask for, all pages of it."""
    query = parse_query(request.scope["query_string"])
    return parse_page_listing(tuple(without_page(query)), reader)


def given_filters(query: Pairs) -> dict[str, list[str]]:
    """The page's filters as they were asked for, for the record of an export."""
    given: dict[str, list[str]] = {}
    for name, value in query:
        if value and name in (*OWN, *FILTERS):
            given.setdefault(name, []).append(value)
    return given


@get(EXPORT, include_in_schema=False)
async def show_export(
    request: AnyRequest, reader: TheReader, database: TheDatabase, settings: TheSettings
) -> Response[bytes]:
    """How many entries an export would hold, by which filters, and its files."""
    query = parse_query(request.scope["query_string"])
    frame = Frame.of(request, settings)
    narrowing = without_page(query)
    back = frame.link("", narrowing)
    try:
        listing = parse_page_listing(tuple(narrowing), reader)
    except WrongParameters as refusal:
        wrong = [f"{name}: {' '.join(sentences)}" for name, sentences in refusal.body.items()]
        values = {"reader": reader, "wrong": wrong, "chips": [], "count": 0, "files": [], "back": back}
        return render("export.html", frame, settings, refusal.status, **values, since=reader.oldest)
    count = await queries.count_entries(database, reader, listing)
    files = [
        ("CSV", "For a spreadsheet: one line an entry, without the rows of bulk entries.", "/export.csv", ()),
        ("NDJSON", "One JSON object a line, closed by a line that says how many there are.", "/export.ndjson", ()),
        ("NDJSON with changes", "The same with values before and after.", "/export.ndjson", (("expand", "changes"),)),
    ]
    return render(
        "export.html",
        frame,
        settings,
        reader=reader,
        wrong=[],
        chips=write_chips(query, listing, frame, settings.catalogue),
        count=count,
        since=listing.lower,
        files=[(name, text, frame.link(path, [*narrowing, *more])) for name, text, path, more in files],
        back=back,
    )


@get(
    EXPORT + ".csv",
    include_in_schema=False,
    dependencies={"listing": Provide(provide_page_listing)},
    media_type="text/csv; header=present",
)
async def export_csv(
    request: AnyRequest, reader: TheReader, database: TheDatabase, listing: TheListing, settings: TheSettings
) -> Stream:
    """All entries that meet the page's filters, as the REST app's CSV."""
    asked = asked_by(request, settings)
    whole = replace(listing, expand=CSV_EXPANSIONS)
    export = export_entries(database, reader, whole, given_filters(asked.query), write_csv, False)
    return await stream_export(request, export, "audit-log.csv")


@get(
    EXPORT + ".ndjson",
    include_in_schema=False,
    dependencies={"listing": Provide(provide_page_listing)},
    media_type="application/x-ndjson",
)
async def export_ndjson(
    request: AnyRequest, reader: TheReader, database: TheDatabase, listing: TheListing, settings: TheSettings
) -> Stream:
    """All entries that meet the page's filters, as the REST app's NDJSON."""
    asked = asked_by(request, settings)
    expand = frozenset(value for name, value in asked.query if (name, value) == ("expand", "changes"))
    write = partial(write_ndjson, base=asked.base, expand=expand)
    export = export_entries(
        database, reader, replace(listing, expand=expand), given_filters(asked.query), write, bool(expand)
    )
    return await stream_export(request, export, "audit-log.ndjson")
