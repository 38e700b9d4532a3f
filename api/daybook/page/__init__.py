"""Page is the audit log as a web page under Settings: it works without JavaScript, over the same queries as the JSON.

Its rooms: frame (what all pages share), signing, timeline with narrowing and histogram, details with differences,
resource with past, exporting, states (what is shown instead), health. None of them knows SQL.
"""

from __future__ import annotations

from typing import Annotated

from litestar import Response, Router, get
from litestar.di import Provide
from litestar.params import Parameter

from ..errors import NotFound
from ..exports import takes_gzip
from ..routes import AnyRequest
from . import details, exporting, markup, resource, signing, timeline  # noqa: F401 - markup is for templates
from .frame import ASSETS, PATH, assets
from .health import Watch
from .signing import COOKIE, SIGN_IN, SIGN_OUT, provide_page_reader
from .states import HANDLERS

__all__ = ["COOKIE", "PATH", "SIGN_IN", "SIGN_OUT", "Watch", "make_router"]


@get(ASSETS + "{name:str}", include_in_schema=False)
async def show_asset(request: AnyRequest, name: Annotated[str, Parameter()]) -> Response[bytes]:
    """A file that pages load; its name changes with its content, so it can be kept for ever."""
    for asset in assets().values():
        if asset.name == name:
            kept = {"Cache-Control": "public, max-age=31536000, immutable", "Vary": "Accept-Encoding"}
            if not takes_gzip(request.scope["headers"]):
                return Response(asset.content, media_type=asset.media_type, headers=kept)
            return Response(asset.compressed, media_type=asset.media_type, headers={**kept, "Content-Encoding": "gzip"})
    raise NotFound


def make_router() -> Router:
    """All routes of the page; they need the dependencies `database`, `authentication` and `settings`, and the app's
    state `settings` and `watch`.
    """
    return Router(
        "/",
        route_handlers=[
            timeline.show_timeline,
            timeline.show_people,
            details.show_entry,
            details.show_entry_as_json,
            resource.show_resource,
            exporting.show_export,
            exporting.export_csv,
            exporting.export_ndjson,
            signing.show_sign_in,
            signing.sign_in,
            signing.sign_out,
            show_asset,
        ],
        dependencies={"reader": Provide(provide_page_reader)},
        exception_handlers=HANDLERS,
    )
