"""The README's SQL session does what the README says, and its tables say what the code says."""

import re
import subprocess
from pathlib import Path

from daybook.commands import build_parser
from daybook.settings import SETTINGS
from tests.conftest import REPOSITORY, Database

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_the_sql_session_prints_what_the_readme_shows(database: Database, pg_bin: Path) -> None:
    session, shown = re.findall(r"```sql\n(.*?)```\s*```text\n(.*?)```", README, re.DOTALL)[0]
    command = [str(pg_bin / "psql"), "--quiet", "--set=ON_ERROR_STOP=1", "--dbname", database.url()]
    printed = subprocess.check_output(command, input=session, text=True)
    lines = [line.rstrip() for line in printed[printed.index("         event") :].splitlines()]
    assert lines[:-1] == shown.rstrip("\n").splitlines()


def test_every_setting_stands_in_the_readme_with_its_default_and_meaning() -> None:
    rows = {f"| `{row.name}` | {f'`{row.default}`' if row.default else ''} | {row.meaning} |" for row in SETTINGS}
    assert rows - set(README.splitlines()) == set()


def test_every_command_stands_in_the_readme() -> None:
    commands = re.findall(r"^    (\w+) ", build_parser().format_help(), re.MULTILINE)
    assert [name for name in commands if f"| `daybook {name}" not in README] == []


def test_the_documents_that_the_readme_links_exist() -> None:
    links = re.findall(r"\]\(((?:docs/|CHANGELOG|LICENSE)[^)#]*)", README)
    assert [link for link in links if not (REPOSITORY / link).exists()] == []
    assert len(links) > 4
