"""`make extension` gives what `create extension pg_daybook` installs.

It must not write into the server's own installation: it works on a copy.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from daybook.postgres import Cluster, Server
from tests.restoring import SETTINGS, connect, copy_with_extension
from tests.trail import Connection


@pytest.fixture
def connection(pg_bin: Path, server_version: int, server_folder: Path) -> Iterator[Connection]:
    copied = copy_with_extension(Server(server_version, pg_bin, "test"), server_folder / "copy")
    with Cluster(copied, server_folder / "cluster", settings=SETTINGS) as cluster, connect(cluster) as connection:
        yield connection


def test_create_extension_installs_the_log(connection: Connection) -> None:
    connection.execute("create extension pg_daybook")
    connection.execute("create table document (id integer primary key, title text)")
    connection.execute("select audit.enable_tracking('document', workspace => 'acme')")
    connection.execute("insert into document values (1, 'Revenue')")
    found = connection.execute("select event, resource_id from audit.timeline where operation = 'INSERT'").fetchall()
    assert found == [("resource_created", "1")]


def test_an_extension_is_dropped_as_a_whole(connection: Connection) -> None:
    connection.execute("create extension pg_daybook")
    connection.execute("drop extension pg_daybook cascade")
    assert connection.execute("select to_regnamespace('audit')").fetchone() == (None,)
