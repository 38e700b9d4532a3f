"""The compose file: valid, private, in order, and nothing in it that `daybook` does not know.

It must not need a container engine.
"""

import json
import subprocess
from importlib import resources
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from jsonschema import Draft7Validator

from daybook.commands import build_parser
from daybook.postgres import Cluster, Server
from daybook.settings import Settings
from tests.conftest import REPOSITORY, execute_sql_folder

COMPOSE: dict[str, Any] = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]


def test_the_compose_file_is_valid_by_the_schema_of_the_compose_specification() -> None:
    schema = resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    errors = Draft7Validator(json.loads(schema.read_text(encoding="utf-8"))).iter_errors(COMPOSE)
    assert [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in errors] == []


@pytest.mark.parametrize("service", ["migrate", "api", "upkeep"])
def test_a_services_command_is_a_command_of_daybook(service: str) -> None:
    assert build_parser().parse_args(SERVICES[service]["command"])


def test_the_dockerfiles_own_command_is_a_command_of_daybook() -> None:
    dockerfile = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
    assert build_parser().parse_args(json.loads(dockerfile.rpartition("\nCMD ")[2]))


@pytest.mark.parametrize("service", ["migrate", "api", "upkeep"])
def test_a_services_environment_holds_settings_that_daybook_knows(service: str, tmp_path: Path) -> None:
    password = tmp_path / "database_password"
    password.write_text("secret\n")
    environment = {**SERVICES[service]["environment"], "DAYBOOK_DATABASE_PASSWORD_FILE": str(password)}
    assert Settings.from_environment(environment).warnings == ()


def test_the_migration_waits_for_the_database_and_the_others_for_the_migration() -> None:
    assert {name: service.get("depends_on", {}) for name, service in SERVICES.items()} == {
        "database": {},
        "migrate": {"database": {"condition": "service_healthy"}},
        "api": {
            "database": {"condition": "service_healthy"},
            "migrate": {"condition": "service_completed_successfully"},
        },
        "upkeep": {
            "database": {"condition": "service_healthy"},
            "migrate": {"condition": "service_completed_successfully"},
        },
    }


def test_ports_are_open_to_this_machine_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports == ["127.0.0.1:5432:5432", "127.0.0.1:8000:8000"]


def test_the_password_comes_from_a_file_everywhere() -> None:
    variables = {name: value for service in SERVICES.values() for name, value in service["environment"].items()}
    assert [name for name in variables if "PASSWORD" in name and not name.endswith("_FILE")] == []
    assert COMPOSE["secrets"] == {"database_password": {"file": "./secrets/database_password"}}
    assert [service["secrets"] for service in SERVICES.values()] == [["database_password"]] * 4


def test_the_image_does_not_run_as_root() -> None:
    dockerfile = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
    assert "\nUSER 10001:10001\n" in dockerfile.rpartition("\nFROM ")[2]


def test_the_logins_of_the_compose_file_may_read_and_maintain_and_are_no_superusers(
    pg_bin: Path, server_version: int, server_folder: Path
) -> None:
    (server_folder / "database_password").write_text("secret\n")
    logins = server_folder / "logins.sql"
    secret = "/run/secrets/database_password"
    logins.write_text(COMPOSE["configs"]["logins"]["content"].replace(secret, str(server_folder / "database_password")))
    with Cluster(Server(server_version, pg_bin, "test"), server_folder / "cluster", tcp="scram-sha-256") as cluster:
        subprocess.run([pg_bin / "psql", "-X", "-v", "ON_ERROR_STOP=1", "-f", logins, cluster.url()], check=True)
        with psycopg.connect(cluster.url()) as connection:
            execute_sql_folder(connection)
        with psycopg.connect(cluster.url(user="daybook_api", password="secret")) as connection:
            connection.execute("set local role audit_reader")
            assert connection.execute("select count(*) from audit.timeline").fetchone() == (0,)
        with psycopg.connect(cluster.url(user="daybook_upkeep", password="secret")) as connection:
            connection.execute("set local role audit_owner")
            assert connection.execute("show is_superuser").fetchone() == ("off",)
