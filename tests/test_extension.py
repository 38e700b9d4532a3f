"""`make extension` gives what `create extension pg_daybook` installs.

It must not write into the server's own installation: it works on a copy.
"""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from daybook.postgres import Cluster, Server
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def extension() -> Path:
    """The folder that `make extension` leaves."""
    printed = subprocess.check_output(["make", "--no-print-directory", "extension"], cwd=REPOSITORY, text=True)
    return REPOSITORY / printed.strip()


@pytest.fixture
def connection(
    extension: Path, pg_bin: Path, server_version: int, server_folder: Path
) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """A connection to a copy of the server, which finds its files, and so its extensions, relative to its programs."""
    copy = server_folder / "copy"
    share = Path(subprocess.check_output([pg_bin / "pg_config", "--sharedir"], text=True).strip())
    wheels_libraries = pg_bin.parents[2] / f"{pg_bin.parents[1].name}.libs"
    for folder in filter(Path.is_dir, [pg_bin.parent, share, wheels_libraries]):
        shutil.copytree(folder, copy / folder.relative_to("/"), dirs_exist_ok=True)
    for file in extension.iterdir():
        shutil.copy(file, copy / share.relative_to("/") / "extension")
    copied = Server(server_version, copy / pg_bin.relative_to("/"), "copy")
    with (
        Cluster(copied, server_folder / "cluster", settings={"fsync": "off"}) as cluster,
        psycopg.connect(cluster.url(), autocommit=True) as connection,
    ):
        yield connection


def test_create_extension_installs_the_log(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    connection.execute("create extension pg_daybook")
    connection.execute("create table document (id integer primary key, title text)")
    connection.execute("select audit.enable_tracking('document', workspace => 'acme')")
    connection.execute("insert into document values (1, 'Revenue')")
    found = connection.execute("select event, resource_id from audit.timeline where operation = 'INSERT'").fetchall()
    assert found == [("resource_created", "1")]


def test_an_extension_is_dropped_as_a_whole(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    connection.execute("create extension pg_daybook")
    connection.execute("drop extension pg_daybook cascade")
    assert connection.execute("select to_regnamespace('audit')").fetchone() == (None,)
