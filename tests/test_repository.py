"""The repository as a newcomer clones it.

It must not look at what git ignores.
"""

import re
import subprocess

import pytest

from tests.conftest import REPOSITORY

HOSTS_AND_MACHINE_PATHS = re.compile(
    rb"pypi\.org|pythonhosted|registry\.npmjs|--(extra-)?index-url|--find-links|(?<![\w.}])/(work|root|opt|home)/"
)


@pytest.fixture(scope="module")
def files() -> list[str]:
    """The paths that a commit would hold now."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    paths = subprocess.check_output(listing, cwd=REPOSITORY, text=True).splitlines()
    return [path for path in paths if (REPOSITORY / path).is_file()]


def test_no_file_names_a_package_registry_or_a_path_of_one_machine(files: list[str]) -> None:
    contents = {path: (REPOSITORY / path).read_bytes() for path in files if path != "tests/test_repository.py"}
    assert {path: found[0] for path, text in contents.items() if (found := HOSTS_AND_MACHINE_PATHS.search(text))} == {}


def test_the_top_level_holds_what_the_design_names_and_nothing_else(files: list[str]) -> None:
    assert sorted({path.partition("/")[0] for path in files}) == [
        ".ci",
        ".dockerignore",
        ".gitignore",
        "CHANGELOG.md",
        "Dockerfile",
        "LICENSE",
        "Makefile",
        "README.md",
        "api",
        "bench",
        "docker-compose.yml",
        "docs",
        "migrations",
        "pyproject.toml",
        "requirements",
        "sql",
        "tests",
    ]


def test_make_alone_lists_every_target() -> None:
    targets = re.findall(r"^([a-z][a-z-]*):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    listed = subprocess.check_output(["make", "--no-print-directory"], cwd=REPOSITORY, text=True)
    assert re.findall(r"^  ([a-z-]+)  ", listed, re.MULTILINE) == targets


def test_each_allowed_skip_has_a_reason() -> None:
    lines = (REPOSITORY / ".ci" / "allowed-skips.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not re.fullmatch(r"#.*|\S+: \S.*", line)] == []


def test_the_version_is_the_same_everywhere() -> None:
    texts = [(REPOSITORY / path).read_text() for path in ("pyproject.toml", "Makefile", "api/daybook/__init__.py")]
    pattern = r'^(?:version = "|VERSION := |__version__ = ")([\d.]+)'
    assert [re.findall(pattern, text, re.MULTILINE) for text in texts] == [["0.1.0"]] * 3
