"""pg_upgrade to the newest server found leaves the log as it was, and it goes on.

The run of an older server has it, once; that of the newest has nowhere to go.
"""

import os
import pwd
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from daybook.postgres import Cluster, Server, find_servers
from tests.restoring import (
    CHANGED,
    COLUMNS,
    WRITTEN,
    WRITTEN_CHANGES,
    clusters,
    connect,
    fill,
    findings,
    portrait,
    rolled_back,
    write,
)
from tests.trail import changes, trail

pytestmark = pytest.mark.xdist_group("pg_upgrade")

DATABASES = ("plain", "extension")
Portraits = dict[str, dict[str, list[str]]]


@pytest.fixture(scope="module")
def upgraded(pg_bin: Path, server_version: int) -> Iterator[tuple[Cluster, Portraits]]:
    """The new cluster after the upgrade, and what stood in the databases of the old one."""
    if server_version == max(server.version for server in find_servers()):
        pytest.skip(f"an upgrade goes from an older server to the newest, which is this one: {server_version}")
    with clusters(Server(server_version, pg_bin, "test")) as (_, old, new):
        with old:
            fill(old)
            before = portraits(old)
        with new:
            pass
        # From 18 on a new cluster has checksums; both must have them, or neither.
        run(old, old.server.bin / "pg_checksums", "--enable", "--no-sync", "-D", old.data)
        folders = ("-b", old.server.bin, "-B", new.server.bin, "-d", old.data, "-D", new.data)
        run(old, new.server.bin / "pg_upgrade", "--link", "-U", "postgres", *folders)
        with new:
            yield new, before


def portraits(cluster: Cluster) -> Portraits:
    found = {}
    for database in DATABASES:
        with connect(cluster, database) as connection:
            found[database] = portrait(connection)
    return found


def run(cluster: Cluster, program: Path, *arguments: str | Path) -> None:
    """Run a program of the server's, in its folder, as the OS user whom the cluster belongs to."""
    account = pwd.getpwuid(cluster.data.stat().st_uid)
    is_other = account.pw_uid != os.geteuid()
    done = subprocess.run(
        [program, *arguments],
        cwd=cluster.data,
        user=account.pw_uid if is_other else None,
        group=account.pw_gid if is_other else None,
        extra_groups=[] if is_other else None,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("database", DATABASES)
def test_everything_stands_as_it_was_and_nothing_more(upgraded: tuple[Cluster, Portraits], database: str) -> None:
    new, before = upgraded
    with connect(new, database) as connection:
        assert portrait(connection) == before[database]


@pytest.mark.parametrize("database", DATABASES)
def test_tracking_goes_on_and_upkeep_is_all_that_is_left_to_do(
    upgraded: tuple[Cluster, Portraits], database: str
) -> None:
    with connect(upgraded[0], database) as connection:
        # Tables and types keep their OIDs; the functions of lookups do not.
        assert findings(connection) == [("function_stale", "public.document_permission", "select audit.maintain()")]
        for upkeep in ("select null", "select audit.maintain() ->> 'problem'"):
            entries, rows = len(trail(connection)), len(changes(connection))
            with rolled_back(connection):
                assert connection.execute(upkeep.encode()).fetchone() == (None,)
                write(connection)
                assert trail(connection, COLUMNS)[entries:] == WRITTEN
                assert changes(connection, CHANGED)[rows:] == WRITTEN_CHANGES
                found = findings(connection)
        assert found == []
