"""/schema/openapi.json: complete and true to the contract, without a site around it.

It must not repeat what the framework writes by itself.
"""

from collections.abc import Iterator
from typing import Any

import jsonschema
import psycopg
import pytest
from jsonschema import Draft202012Validator

from tests.conftest import Database, TestServer
from tests.reading import (
    AS_ADMIN,
    ENTRY,
    RESOURCE,
    WORKSPACE,
    Client,
    add_changes,
    add_entry,
    add_keys,
    opened,
    shared_database,
)

PATHS = [
    WORKSPACE,
    RESOURCE,
    ENTRY + "{entry_id}/",
    ENTRY + "{entry_id}/changes/",
    "/api/v1/notification/integrity/",
    "/api/v1/notification/export.ndjson",
    "/api/v1/notification/export.csv",
]


@pytest.fixture(scope="module")
def filled(server: TestServer) -> Iterator[Database]:
    """A log with one bulk entry of 21 rows."""
    with shared_database(server) as database:
        db: psycopg.Connection[Any] = database.connect()
        add_keys(db)
        add_changes(db, add_entry(db, resource_id=None, row_count=21, context={"metadata": {"a": 1}}), range(1, 22))
        yield database


@pytest.fixture(scope="module")
def api(filled: Database) -> Iterator[Client]:
    with opened(filled) as client:
        yield client


@pytest.fixture(scope="module")
def schema(api: Client) -> dict[str, Any]:
    answer = api.get("/schema/openapi.json")
    assert answer.status_code == 200
    return dict(answer.json())


def test_every_path_of_the_api_is_described(schema: dict[str, Any]) -> None:
    methods = ["delete", "get", "patch", "post", "put"]
    assert {path: sorted(item) for path, item in schema["paths"].items()} == {
        "/api/v1/notification/workspace/": methods,
        "/api/v1/notification/resource/": methods,
        "/api/v1/notification/entry/{entry_id}/": methods,
        "/api/v1/notification/entry/{entry_id}/changes/": methods,
        "/api/v1/notification/facets/": methods,
        "/api/v1/notification/integrity/": methods,
        "/api/v1/notification/export.ndjson": methods,
        "/api/v1/notification/export.csv": methods,
        "/healthz": ["get"],
    }


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_of_the_api_is_described(schema: dict[str, Any], path: str) -> None:
    operation = schema["paths"][path]["get"]
    statuses = ["200", "400", "401", "403", "404", "408", "414", "431", "500", "503"]
    assert sorted(operation["responses"]) == statuses
    assert operation["responses"]["401"]["headers"]["WWW-Authenticate"] == constant("Bearer")
    assert operation["responses"]["503"]["headers"]["Retry-After"] == constant("5")
    assert operation["responses"]["200"]["headers"]["Cache-Control"] == constant("no-store")
    assert operation["security"] == [{"key": []}]


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
@pytest.mark.parametrize("path", PATHS)
def test_every_write_is_described_as_refused(schema: dict[str, Any], path: str, method: str) -> None:
    operation = schema["paths"][path][method]
    assert sorted(operation["responses"]) == ["400", "403", "408", "414", "431", "500"]
    assert operation["responses"]["403"]["headers"]["Allow"] == constant("GET, HEAD, OPTIONS")
    assert operation["security"] == []


def constant(value: str) -> dict[str, Any]:
    """How a header that is always there with this value is described."""
    return {"schema": {"type": "string", "const": value}, "required": True, "deprecated": False}


def test_the_parameters_of_the_lists_are_described(schema: dict[str, Any]) -> None:
    parameters = {parameter["name"]: parameter for parameter in schema["paths"][RESOURCE]["get"]["parameters"]}
    assert list(parameters) == [
        "resource_id", "days", "event", "performer_id", "resource_type", "created_after", "created_before",
        "request_id", "q", "as_of", "expand", "page", "page_size", "cursor",
    ]  # fmt: skip
    assert parameters["resource_id"]["required"] is True
    assert parameters["page_size"]["schema"] == {"type": ["integer", "string"], "default": 50}


def test_the_key_is_described(schema: dict[str, Any]) -> None:
    assert schema["components"]["securitySchemes"]["key"]["type"] == "http"
    assert schema["components"]["securitySchemes"]["key"]["scheme"] == "Bearer"


def test_health_needs_no_key(schema: dict[str, Any]) -> None:
    assert "security" not in schema["paths"]["/healthz"]["get"]


def test_no_error_body_has_more_than_its_detail(schema: dict[str, Any]) -> None:
    assert list(schema["components"]["schemas"]["Detail"]["properties"]) == ["detail"]
    assert "status_code" not in str(schema)


@pytest.mark.parametrize("path", [WORKSPACE, RESOURCE])
def test_a_list_is_as_described(api: Client, schema: dict[str, Any], path: str) -> None:
    parameters = {"resource_id": "7", "expand": "changes,context,actor,resource", "page_size": "1"}
    answer = api.get(path, params=parameters, headers=AS_ADMIN).json()
    validate(answer, schema, "EntryPage")
    assert answer["results"][0]["changes"]["row_count"] == 21


def test_a_page_of_changes_is_as_described(api: Client, schema: dict[str, Any]) -> None:
    [entry] = api.get(WORKSPACE, headers=AS_ADMIN).json()["results"]
    validate(entry, schema, "Entry")
    validate(api.get(f"{ENTRY}{entry['id']}/changes/", headers=AS_ADMIN).json(), schema, "ChangePage")


def validate(answer: Any, schema: dict[str, Any], name: str) -> None:
    """Fail unless the answer is as the named schema describes it."""
    jsonschema.validate(
        answer, {"$ref": f"#/components/schemas/{name}", "components": schema["components"]}, Draft202012Validator
    )
