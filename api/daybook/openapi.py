"""OpenAPI is what /schema/openapi.json says beyond the handlers' types: parameters, refusals, the security scheme.

It describes; what a parameter does stands in parameters.py, what a refusal says in errors.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
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
    PathItem,
    Reference,
    Schema,
    SecurityScheme,
)
from litestar.openapi.spec.enums import OpenAPIType

from . import __version__
from .answers import Detail
from .credentials import READING_ROLES
from .errors import NotAuthenticated, PermissionDenied, Unreadable
from .front import HEADERS, READING_METHODS, WRITING_METHODS
from .parameters import (
    DEFAULT_DAYS,
    DEFAULT_PAGE_SIZE,
    EVENT,
    EXPANSIONS,
    LONGEST_TEXT,
    MAXIMUM_PAGE_SIZE,
    MOMENT,
    NUMBER_FROM_ONE,
)

HEALTH = "/healthz"
SECURITY: list[dict[str, list[str]]] = [{"key": []}]
FieldErrors = dict[str, list[str]]


def _refusal(description: str, container: Any = Detail) -> ResponseSpec:
    return ResponseSpec(data_container=container, description=description, generate_examples=False)


# What any request may be refused with, whatever it asks for: see protocol.py and front.py.
_ANY_REFUSAL = {
    400: _refusal("What was sent is no HTTP, or its `Host` no host."),
    408: _refusal("The request did not arrive whole in time."),
    414: _refusal("The address is longer than 32 kB."),
    431: _refusal("The header fields are longer than 64 kB."),
    500: _refusal("Something unexpected; it has been logged."),
}
REFUSALS = _ANY_REFUSAL | {
    400: _refusal("Parameters that cannot be read: for each its sentences.", FieldErrors | Detail),
    401: _refusal("No credentials, or none that are valid; with `WWW-Authenticate: Bearer`."),
    403: _refusal(f"The key's role is not {' or '.join(sorted(READING_ROLES))}."),
    404: _refusal("`page` is no number, below 1 or past the end; or there is no such entry."),
    503: _refusal("The log could not be read in time; with `Retry-After`."),
}
HEALTH_REFUSALS = _ANY_REFUSAL | {503: _refusal("The log cannot be read, or its upkeep is late.")}

# Headers of an answer by its status, those of every answer under none; each has one value.
_ANSWER_HEADERS: dict[str | None, dict[str, str]] = {
    None: {name.decode().title(): value.decode() for name, value in HEADERS},
    "401": dict(NotAuthenticated.headers),
    "503": dict(Unreadable.headers),
}
_WRITE_HEADERS = {"Allow": READING_METHODS}

# Numbers are texts in an address, and so is what is taken for one.
_NUMBER_OR_TEXT = [OpenAPIType.INTEGER, OpenAPIType.STRING]
_TEXT = Schema(type=OpenAPIType.STRING, max_length=LONGEST_TEXT, pattern=r"^[^\u0000]*$")
_MOMENT = Schema(type=OpenAPIType.STRING, pattern=f"^({MOMENT})?$", examples=["2026-03-14", "2026-03-14T09:30:00Z"])
_WORDS = Schema(type=OpenAPIType.ARRAY, items=Schema(type=OpenAPIType.STRING, pattern=f"^ *({EVENT})? *$"))
_EXPAND = Schema(
    type=OpenAPIType.ARRAY,
    items=Schema(type=OpenAPIType.STRING, pattern=f"^ *({'|'.join(EXPANSIONS)})? *$", examples=list(EXPANSIONS)),
)

_PAGE = Parameter(
    name="page",
    param_in="query",
    description="Number of the page, or `last`. Empty is 1; of several the last counts.",
    schema=Schema(type=_NUMBER_OR_TEXT, minimum=1, pattern=f"^(last|{NUMBER_FROM_ONE})?$", default=1),
)
_PAGE_SIZE = Parameter(
    name="page_size",
    param_in="query",
    description=f"Rows a page: above {MAXIMUM_PAGE_SIZE} it is {MAXIMUM_PAGE_SIZE}; what is no number from 1 on counts "
    "as not given. Of several the last counts.",
    schema=Schema(type=_NUMBER_OR_TEXT, default=DEFAULT_PAGE_SIZE),
)
_EXPANSION = Parameter(
    name="expand",
    param_in="query",
    description=f"Further keys of an entry ({', '.join(EXPANSIONS)}), repeated or separated by commas.",
    schema=_EXPAND,
    style="form",
    explode=False,
)
_FILTERS = [
    Parameter(
        name="days",
        param_in="query",
        description="Entries of the last so many times 24 hours; above the retention it is the retention.",
        schema=Schema(type=_NUMBER_OR_TEXT, minimum=1, pattern=f"^({NUMBER_FROM_ONE})?$", default=DEFAULT_DAYS),
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
_COUNTED = [parameter for parameter in _FILTERS if parameter.name != "request_id"]
_FILTERS += [
    Parameter(
        name="q",
        param_in="query",
        description="Words, all of which an entry holds in its names or changed values, or one of its rows does: whole "
        "words, whatever their case. Not found are parts of words, names of columns, what is redacted, excluded or "
        "cut, the context, and what comes after the first 100,000 characters.",
        schema=_TEXT,
    ),
]
_AS_OF = Parameter(
    name="as_of",
    param_in="query",
    description="`now` freezes a walk over the pages: they show what is final now, and links carry what keeps it so.",
    schema=Schema(type=OpenAPIType.STRING, pattern=r"^(now|[A-Za-z0-9_-]{32})?$"),
)
_CURSOR = Parameter(
    name="cursor",
    param_in="query",
    description="Instead of `page`: forward from the oldest entry (empty), or from where the answer before said in "
    "`meta.cursor`. Nothing is lost and nothing comes twice; what is not final yet comes later.",
    schema=Schema(type=OpenAPIType.STRING, pattern=r"^([A-Za-z0-9_-]{22})?$"),
)
_RESOURCE = "The thing affected: its own entries, bulk entries with a row of it, and changes of permissions for it."
_PAGING = [_PAGE, _PAGE_SIZE]


def _resource_id(required: bool) -> Parameter:
    schema = replace(_TEXT, min_length=1) if required else _TEXT
    return Parameter(name="resource_id", param_in="query", description=_RESOURCE, required=required, schema=schema)


@dataclass
class _WithQuery(Operation):
    """An operation whose query parameters are read by parameters.py, not by the framework."""

    def _add(self, parameters: list[Parameter]) -> None:
        self.parameters = [*(self.parameters or []), *parameters]


@dataclass
class WorkspaceOperation(_WithQuery):
    def __post_init__(self) -> None:
        self._add([*_FILTERS, _resource_id(required=False), _AS_OF, _EXPANSION, *_PAGING, _CURSOR])


@dataclass
class ResourceOperation(_WithQuery):
    def __post_init__(self) -> None:
        self._add([_resource_id(required=True), *_FILTERS, _AS_OF, _EXPANSION, *_PAGING, _CURSOR])


@dataclass
class FacetsOperation(_WithQuery):
    def __post_init__(self) -> None:
        self._add([*_COUNTED, _AS_OF])


@dataclass
class NdjsonOperation(_WithQuery):
    def __post_init__(self) -> None:
        self._add([*_FILTERS, _resource_id(required=False), _AS_OF, _EXPANSION])


@dataclass
class CsvOperation(_WithQuery):
    def __post_init__(self) -> None:
        self._add([*_FILTERS, _resource_id(required=False), _AS_OF])


@dataclass
class EntryOperation(_WithQuery):
    def __post_init__(self) -> None:
        self._add([_EXPANSION])


@dataclass
class ChangesOperation(_WithQuery):
    def __post_init__(self) -> None:
        self._add(_PAGING)


def complete(schema: OpenAPI) -> None:
    """Add what the framework leaves out: the slash at the end of paths, the refusal of writes, headers of answers."""
    paths = schema.paths or {}
    schema.paths = {path + "/" * _ends_in_a_slash(path): item for path, item in paths.items()}
    reads = {path: item.get for path, item in schema.paths.items() if item.get}
    for read in reads.values():
        _add_headers(read)
    refusals = {str(status): (reads[HEALTH].responses or {})[str(status)] for status in _ANY_REFUSAL}
    for path, read in reads.items():
        if path.startswith("/api/"):
            _add_writes(schema.paths[path], read, refusals)


def _ends_in_a_slash(path: str) -> bool:
    """Whether the contract writes a path so: those of the API do, save for what is named as a file."""
    return path.startswith("/api/") and "." not in path.rpartition("/")[2]


def _add_headers(operation: Operation) -> None:
    for status, response in (operation.responses or {}).items():
        assert isinstance(response, OpenAPIResponse)
        response.headers = _headers(_ANSWER_HEADERS[None] | _ANSWER_HEADERS.get(status, {}))


def _add_writes(item: PathItem, read: Operation, refusals: Mapping[str, OpenAPIResponse | Reference]) -> None:
    """Describe the methods that front.py refuses whatever a request holds, and before it is judged."""
    refused = (read.responses or {})["403"]
    assert isinstance(refused, OpenAPIResponse)
    headers = {**(refused.headers or {}), **_headers(_WRITE_HEADERS)}
    for method in sorted(WRITING_METHODS):
        write = Operation(
            operation_id=f"{method.lower()}_{read.operation_id}",
            summary="Refused: the log is read-only",
            description="Refused to anybody, with or without credentials, before the body is read.",
            parameters=[parameter for parameter in read.parameters or [] if _is_in_path(parameter)],
            responses={**refusals, "403": replace(refused, description=PermissionDenied.detail, headers=headers)},
            security=[],
        )
        setattr(item, method.lower(), write)


def _is_in_path(parameter: Any) -> bool:
    return bool(parameter.param_in == "path")


def _headers(values: dict[str, str]) -> dict[str, OpenAPIHeader | Reference]:
    return {
        name: OpenAPIHeader(required=True, schema=Schema(type=OpenAPIType.STRING, const=value))
        for name, value in values.items()
    }


def describe() -> OpenAPIConfig:
    """What the schema says of the app as a whole; it is served as JSON only."""
    return OpenAPIConfig(
        title="pg_daybook",
        version=__version__,
        description="The audit log of a PostgreSQL application, read-only: every write is refused with 403. "
        "HEAD is as GET without a body; OPTIONS is 200 with `Allow` and needs no credentials; other methods are 405. "
        "A path's last slash may be left out.",
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
