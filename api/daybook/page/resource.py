"""Resource is the page of one resource: everything that touched it, and what it was at each of these moments."""

from __future__ import annotations

from litestar import Response, get

from .. import queries
from ..addresses import Pairs, parse_query
from ..errors import NotFound, WrongParameters
from ..parameters import REQUIRED, Form, Listing, parse_page, parse_page_size
from ..positions import Position
from ..routes import AnyRequest, TheDatabase, TheReader, TheSettings
from ..sentences import show
from .frame import PATH, Frame, Paging, render
from .past import rebuild
from .timeline import UNREAD, columns_named, days_of, write_lines


@get(PATH + "/resource", include_in_schema=False)
async def show_resource(
    request: AnyRequest, reader: TheReader, database: TheDatabase, settings: TheSettings
) -> Response[bytes]:
    """The history of one resource, and its state right after the entry `at`, or now."""
    query = parse_query(request.scope["query_string"])
    frame, catalogue = Frame.of(request, settings), settings.catalogue
    try:
        kind, resource_id, at = _asked(query)
    except WrongParameters:
        raise NotFound from None
    listing = Listing(
        reader.oldest,
        reader.horizon,
        parse_page(query),
        parse_page_size(query),
        {**UNREAD, "resource_id": resource_id, "resource_type": kind},
    )
    found, _ = await queries.find_timeline(database, reader, listing, columns_named(catalogue))
    place = Position.of(at) if at else None
    if at and (place is None or place.moment < reader.oldest):
        raise NotFound
    history = await queries.find_history(database, reader, kind, resource_id, reader.oldest, reader.horizon)
    own = [row for row in found.rows if row["resource_id"] == resource_id]
    # Of what bulk statements alone have touched, their rows know the name.
    names = [row["resource_name"] for row in (*own, *reversed(history.changes)) if row["resource_name"]]
    pairs = [("id", resource_id), ("type", kind)]
    return render(
        "resource.html",
        frame,
        settings,
        reader=reader,
        kind=kind,
        name=show(names[0] if names else resource_id),
        resource_id=show(resource_id),
        found=found,
        days=days_of(write_lines(found.rows, catalogue, frame)),
        state=rebuild(history, place, (resource_id, reader.workspace_id)),
        at=at,
        moment=place.moment if place else None,
        here=frame.link("/resource", pairs),
        then=lambda entry_id: frame.link("/resource", [*pairs, ("at", entry_id)]) + "#state",
        all=frame.filtered(resource_id=resource_id, resource_type=kind),
        paging=Paging.of(found, frame.root + "/resource", query),
    )


def _asked(query: Pairs) -> tuple[str, str, str]:
    """The kind and id of the resource, and the entry after which its state is asked for. Raises WrongParameters."""
    form = Form(query)
    kind, resource_id, at = (form.take(name, str, "") for name in ("type", "id", "at"))
    if not kind or not resource_id:
        form.wrong["id"] = [REQUIRED]
    form.refuse_wrong()
    return kind, resource_id, at
