"""The wheel, installed into an environment of its own outside the checkout, is the whole product.

It must not reach a package index, nor find anything of the checkout by accident.
"""

import os
import subprocess
import sys
import sysconfig
import time
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

from daybook.postgres import free_port
from tests.conftest import REPOSITORY, Database

START_SECONDS = 30


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(REPOSITORY)]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def command(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command `daybook` of a fresh environment that has the wheel and, by a path file, this one's dependencies."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-qq", "--python", str(python)]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", str(wheel)], check=True)
    packages = subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
    )
    (Path(packages.strip()) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "daybook"


def daybook_process(command: Path, database: Database, *arguments: str) -> subprocess.Popen[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "DAYBOOK_"))}
    environment = {**inherited, "DAYBOOK_DATABASE_URL": database.url()}
    return subprocess.Popen(
        [command, *arguments], stdout=subprocess.PIPE, text=True, cwd=command.parent, env=environment
    )


def run(command: Path, database: Database, *arguments: str) -> str:
    process = daybook_process(command, database, *arguments)
    output = process.communicate()[0]
    assert process.returncode == 0, arguments
    return output


@contextmanager
def serving(command: Path, database: Database) -> Iterator[str]:
    port = free_port()
    process = daybook_process(command, database, "serve", "--port", str(port))
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.communicate()


def answer(url: str, key: str = "") -> int:
    """GET until the server listens; return the status."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            return int(urlopen(Request(url, headers={"Authorization": f"Bearer {key}"}), timeout=5).status)
        except URLError as error:
            if not isinstance(error.reason, ConnectionRefusedError) or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def test_the_wheel_holds_the_sql_and_the_migrations_but_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    folders = {"/".join(name.split("/")[:2]) for name in names if name.count("/") > 1}
    assert {"daybook/sql", "daybook/migrations"} <= folders
    assert [name for name in names if not name.startswith(("daybook/", "pg_daybook-"))] == []


def test_the_installed_command_is_not_that_of_the_checkout(command: Path) -> None:
    python = command.with_name("python")
    origin = subprocess.check_output([python, "-c", "import daybook; print(daybook.__file__)"], text=True, cwd="/")
    assert Path(origin.strip()).is_relative_to(command.parents[1])


def test_the_installed_command_migrates_makes_a_key_and_serves(command: Path, empty_database: Database) -> None:
    run(command, empty_database, "migrate")
    key = run(command, empty_database, "key", "create", "--workspace=acme", "--name=test", "--role=admin").strip()
    with serving(command, empty_database) as url:
        assert answer(f"{url}/healthz") == 200
        assert answer(f"{url}/api/v1/notification/workspace/", key) == 200
