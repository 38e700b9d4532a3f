"""OpenAPI is what /schema/openapi.json says beyond the handlers' types: parameters, refusals, the security scheme.

It describes; what a parameter does stands in parameters.py, what a refusal says in errors.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from litestar.openapi import OpenAPIConfig, ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import (
    Components,
    OpenAPI,
    OpenAPIHeader,
    OpenAPIResponse,
    Operation,
    Parameter,
    Schema,
    SecurityScheme,
)
from litestar.openapi.spec.enums import OpenAPIType

from . import __version__
from .answers import Detail
from .credentials import READING_ROLES
from .parameters import DEFAULT_DAYS, DEFAULT_PAGE_SIZE, EXPANSIONS, LONGEST_TEXT, MAXIMUM_PAGE_SIZE

SECURITY: list[dict[str, list[str]]] = [{"key": []}]
FieldErrors = dict[str, list[str]]


def _refusal(description: str, container: Any = Detail) -> ResponseSpec:
    return ResponseSpec(data_container=container, description=description, generate_examples=False)


REFUSALS = {
    400: _refusal("Parameters that cannot be read: for each its sentences.", FieldErrors | Detail),
    401: _refusal("No credentials, or none that are valid; with `WWW-Authenticate: Bearer`."),
    403: _refusal(f"The key's role is not {' or '.join(sorted(READING_ROLES))}; or a method that would write."),
    404: _refusal("`page` is no number, below 1 or past the end; or there is no such entry."),
    414: _refusal("The address is longer than 32 kB."),
    500: _refusal("Something unexpected; it has been logged."),
    503: _refusal("The log could not be read in time; with `Retry-After`."),
}
HEALTH_REFUSALS = {503: _refusal("The log cannot be read, or its upkeep is late.")}

_TEXT = Schema(type=OpenAPIType.STRING, max_length=LONGEST_TEXT)
_MOMENT = Schema(type=OpenAPIType.STRING, examples=["2026-03-14", "2026-03-14T09:30:00Z"])
_WORDS = Schema(type=OpenAPIType.ARRAY, items=Schema(type=OpenAPIType.STRING, pattern=r"^([a-z0-9_]{1,63}\*?|\*)$"))
_EXPAND = Schema(type=OpenAPIType.ARRAY, items=Schema(type=OpenAPIType.STRING, enum=list(EXPANSIONS)))

_PAGE = Parameter(
    name="page",
    param_in="query",
    description="Number of the page, or `last`. Empty is 1; of several the last counts.",
    schema=Schema(
        one_of=[Schema(type=OpenAPIType.INTEGER, minimum=1), Schema(type=OpenAPIType.STRING, enum=["", "last"])],
        default=1,
    ),
)
_PAGE_SIZE = Parameter(
    name="page_size",
    param_in="query",
    description=f"Rows a page: above {MAXIMUM_PAGE_SIZE} it is {MAXIMUM_PAGE_SIZE}; what is no number from 1 on counts "
    "as not given. Of several the last counts.",
    schema=Schema(type=OpenAPIType.INTEGER, minimum=1, maximum=MAXIMUM_PAGE_SIZE, default=DEFAULT_PAGE_SIZE),
)
_EXPANSION = Parameter(
    name="expand",
    param_in="query",
    description="Further keys of an entry, repeated or separated by commas.",
    schema=_EXPAND,
    style="form",
    explode=False,
)
_FILTERS = [
    Parameter(
        name="days",
        param_in="query",
        description="Entries of the last so many times 24 hours; above the retention it is the retention.",
        schema=Schema(type=OpenAPIType.INTEGER, minimum=1, default=DEFAULT_DAYS),
    ),
    Parameter(
        name="event",
        param_in="query",
        description="Events by name, or by their beginning (`resource_*`), repeated or separated by commas. "
        "`log_*` entries, which reading itself leaves, are listed only when they are named here.",
        schema=_WORDS,
        style="form",
        explode=False,
    ),
    Parameter(name="performer_id", param_in="query", description="Who did it; `system` too.", schema=_TEXT),
    Parameter(name="resource_type", param_in="query", description="The kind of thing affected.", schema=_TEXT),
    Parameter(
        name="created_after",
        param_in="query",
        description="This moment or later; a date is its first moment. UTC unless it says otherwise.",
        schema=_MOMENT,
    ),
    Parameter(name="created_before", param_in="query", description="Before this moment, it excluded.", schema=_MOMENT),
    Parameter(name="request_id", param_in="query", description="The application's request.", schema=_TEXT),
]
_RESOURCE = "The thing affected: its own entries, bulk entries with a row of it, and changes of permissions for it."
_PAGING = [_PAGE, _PAGE_SIZE]


def _resource_id(required: bool) -> Parameter:
    return Parameter(name="resource_id", param_in="query", description=_RESOURCE, required=required, schema=_TEXT)


@dataclass
class _WithQuery(Operation):
    """An operation whose query parameters are read by parameters.py, not by the framework."""

    def _add(self, parameters: list[Parameter]) -> None:
        self.parameters = [*(self.parameters or []), *parameters]


@dataclass
class WorkspaceOperation(_WithQuery):
    def __post_init__(self) -> None:
        self._add([*_FILTERS, _resource_id(required=False), _EXPANSION, *_PAGING])


@dataclass
class ResourceOperation(_WithQuery):
    def __post_init__(self) -> None:
        self._add([_resource_id(required=True), *_FILTERS, _EXPANSION, *_PAGING])


@dataclass
class EntryOperation(_WithQuery):
    def __post_init__(self) -> None:
        self._add([_EXPANSION])


@dataclass
class ChangesOperation(_WithQuery):
    def __post_init__(self) -> None:
        self._add(_PAGING)


def complete(schema: OpenAPI) -> None:
    """Add what the framework leaves out: the slash at the end of the API's paths, and the headers of refusals."""
    paths = schema.paths or {}
    schema.paths = {path + "/" if path.startswith("/api/") else path: item for path, item in paths.items()}
    for item in paths.values():
        responses = (item.get and item.get.responses) or {}
        for status, header in (("401", "WWW-Authenticate"), ("503", "Retry-After")):
            response = responses.get(status)
            if isinstance(response, OpenAPIResponse):
                response.headers = {header: OpenAPIHeader(schema=Schema(type=OpenAPIType.STRING))}


def describe() -> OpenAPIConfig:
    """What the schema says of the app as a whole; it is served as JSON only."""
    return OpenAPIConfig(
        title="pg_daybook",
        version=__version__,
        description="The audit log of a PostgreSQL application, read-only: every write is refused with 403. "
        "HEAD is as GET without a body; OPTIONS needs no credentials; a path's last slash may be left out.",
        path="/schema",
        render_plugins=[JsonRenderPlugin(path="/openapi.json")],
        components=Components(
            security_schemes={
                "key": SecurityScheme(
                    type="http",
                    scheme="Bearer",
                    bearer_format="daybook_ and 43 characters base64url",
                    description="An API key: it names one workspace and a role.",
                )
            }
        ),
        use_handler_docstrings=True,
        operation_id_creator=lambda handler, _method, _path: handler.handler_name,
    )
