"""The demo, run as its user runs it: what it prints, what can be done with that, how it stops and starts again.

It must not look inside the running demo but through its database and its web address.
"""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psycopg
import pytest

from daybook.demo.filling import without_warnings
from daybook.demo.folder import FolderError, default_folder, open_folder
from daybook.demo.story import tell
from daybook.postgres import Cluster, find_server
from tests.conftest import REPOSITORY

# One demo serves them all: with --dist loadgroup one worker runs them.
pytestmark = pytest.mark.xdist_group("demo")

START_SECONDS = 120
NAMES = ["URL", "Database", "DBA", "Admin key", "Member's key", "Other workspace's key"]

WRITES = """
create table invoice (number integer primary key, workspace_id text not null, amount numeric not null);
select audit.enable_tracking('invoice', column_events => '{"documentation_updated": ["amount"]}');
select audit.disable_tracking('invoice');
select audit.enable_tracking('invoice');
begin;
select audit.set_actor('4711', 'Blaise Pascal');
insert into invoice values (1, 'acme', 10.00);
insert into invoice select n, 'acme', n from generate_series(2, 300) n;
commit;
begin;
select audit.set_actor('4711', 'Blaise Pascal');
update invoice set amount = amount + 1;
commit;
begin;
select audit.set_actor('4711', 'Blaise Pascal');
update invoice set amount = 0;
delete from invoice;
rollback;
update invoice set amount = amount;
"""


@dataclass
class Demo:
    """A demo that runs, or ran, and what it printed."""

    folder: Path
    process: "subprocess.Popen[bytes]"
    started_after: float
    lines: list[str]
    messages: Path
    values: dict[str, str] = field(default_factory=dict)

    def get(self, path: str, key: str = "Admin key", method: str = "GET") -> tuple[int, Any]:
        """Return status and body of a request to the REST app."""
        address = f"{self.values['URL']}/api/v1/notification/{path}"
        request = Request(address, headers={"Authorization": f"Bearer {self.values[key]}"}, method=method)
        try:
            with urlopen(request, timeout=20) as answer:
                return answer.status, json.load(answer)
        except HTTPError as error:
            return error.code, json.load(error)

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout=60)

    def write(self, statements: str, psql: Path) -> None:
        """Run statements through the printed database address."""
        command: list[str | Path] = [psql, self.values["Database"], "-X", "-q", "-v", "ON_ERROR_STOP=1"]
        subprocess.run(command, input=statements, text=True, check=True, stdout=subprocess.DEVNULL)

    def newest(self, limit: int, workspace: str = "acme") -> list[dict[str, Any]]:
        """Return a workspace's newest entries with all their columns, as the DBA reads them."""
        with psycopg.connect(self.values["DBA"], row_factory=psycopg.rows.dict_row) as dba:
            return dba.execute(
                "select * from audit.timeline where workspace_id = %s order by created_at desc, id desc limit %s",
                [workspace, limit],
            ).fetchall()


def environment(pg_bin: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "DAYBOOK_"))}
    return {**inherited, "DAYBOOK_POSTGRES_BIN": str(pg_bin), "PYTHONPATH": str(REPOSITORY / "api")}


def command(*arguments: str | Path) -> list[str | Path]:
    return [sys.executable, "-m", "daybook", "demo", *arguments]


def refused(pg_bin: Path, *arguments: str | Path) -> tuple[int, str]:
    """Run a demo that cannot start; return its exit code and what it said."""
    process = subprocess.run(
        command(*arguments), env=environment(pg_bin), capture_output=True, text=True, timeout=60, check=False
    )
    assert process.stdout == ""
    return process.returncode, process.stderr


@contextmanager
def run_demo(folder: Path, pg_bin: Path) -> Iterator[Demo]:
    begun = time.monotonic()
    printed, messages = folder.with_name(f"{folder.name}.out"), folder.with_name(f"{folder.name}.err")
    with open(printed, "wb") as out, open(messages, "wb") as err:
        process = subprocess.Popen(
            command("--port", "0", "--data", folder), stdout=out, stderr=err, env=environment(pg_bin)
        )
    try:
        while "psql" not in printed.read_text():
            assert process.poll() is None, messages.read_text()
            assert time.monotonic() - begun < START_SECONDS, messages.read_text()
            time.sleep(0.1)
        demo = Demo(folder, process, time.monotonic() - begun, printed.read_text().splitlines(), messages)
        demo.values = dict(line.split(": ", 1) for line in demo.lines[: len(NAMES)])
        yield demo
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(timeout=60)


@dataclass
class Starts:
    """Two starts of one demo: the first was ended by Ctrl-C, the second runs."""

    first: Demo
    exit_code: int
    left_by_first: list[str]
    newest_of_first: list[dict[str, Any]]
    second: Demo


@pytest.fixture(scope="module")
def starts(pg_bin: Path) -> Iterator[Starts]:
    with tempfile.TemporaryDirectory(prefix="pg-daybook-demo-", dir="/tmp") as name:
        # As root the server's OS user must be able to enter.
        parent = Path(name)
        parent.chmod(0o755)
        with run_demo(parent / "demo", pg_bin) as first:
            newest = first.newest(1000)
            exit_code = first.stop()
        left = left_behind(first)
        with run_demo(parent / "demo", pg_bin) as second:
            yield Starts(first, exit_code, left, newest, second)


@pytest.fixture
def demo(starts: Starts) -> Demo:
    return starts.second


def left_behind(demo: Demo) -> list[str]:
    """What still answers of a demo that ended."""
    ports = [value.rpartition(":")[2].partition("/")[0] for value in (demo.values["URL"], demo.values["Database"])]
    files = [str(file) for file in demo.folder.glob("data/postmaster.pid")]
    with socket.socket() as probe:
        return [*files, *(port for port in ports if probe.connect_ex(("127.0.0.1", int(port))) == 0)]


def interrupted_while_filling(folder: Path, pg_bin: Path) -> tuple[int, str]:
    """Run a first start, end it half-way; return its exit code and what it said."""
    with subprocess.Popen(
        command("--port", "0", "--data", folder), stderr=subprocess.PIPE, env=environment(pg_bin), text=True
    ) as process:
        assert process.stderr is not None
        said = "".join(takewhile(lambda line: not line.endswith(": 50 %\n"), process.stderr))
        process.send_signal(signal.SIGINT)
        said += process.stderr.read()
    return process.returncode, said


def families(entries: list[dict[str, Any]]) -> set[str]:
    return {entry["event"].partition("_")[0] for entry in entries}


# What it prints


def test_the_values_stand_each_at_the_start_of_a_line_of_its_own(demo: Demo) -> None:
    assert [line.split(": ", 1)[0] for line in demo.lines[: len(NAMES)]] == NAMES


def test_each_value_has_its_form_and_nothing_after_it(demo: Demo) -> None:
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", demo.values["URL"])
    assert re.fullmatch(r"postgresql://\w+:[\w-]+@127\.0\.0\.1:\d+/\w+", demo.values["Database"])
    assert re.fullmatch(r"postgresql://\w+:[\w-]+@127\.0\.0\.1:\d+/\w+", demo.values["DBA"])
    assert re.fullmatch(r"daybook_[\w-]{43}", demo.values["Admin key"])
    assert re.fullmatch(r"daybook_[\w-]{43}", demo.values["Member's key"])
    assert re.fullmatch(r"daybook_[\w-]{43}", demo.values["Other workspace's key"])


def test_after_the_values_come_three_curl_lines_and_one_psql_line(demo: Demo) -> None:
    assert demo.lines[6] == ""
    assert [Path(shlex.split(line)[0]).name for line in demo.lines[7:]] == ["curl", "curl", "curl", "psql"]


def test_the_suggested_resource_has_entries_with_changes_and_permissions(demo: Demo) -> None:
    path = shlex.split(demo.lines[8])[-1].partition("/notification/")[2]
    events = {entry["event"] for entry in demo.get(f"{path}&page_size=1000")[1]["results"]}
    assert events >= {"resource_updated", "documentation_updated", "permission_granted"}


def test_without_a_terminal_nothing_is_coloured_and_the_progress_is_in_lines(starts: Starts) -> None:
    messages = starts.first.messages.read_text() + "\n".join(starts.first.lines)
    assert re.search(r"[\x1b\r]", messages) is None


# Its logins


def test_the_database_line_is_a_login_without_superuser_that_owns_the_sample_tables(demo: Demo) -> None:
    with psycopg.connect(demo.values["Database"]) as connection:
        row = connection.execute(
            "select rolsuper, rolcreaterole, pg_get_userbyid(relowner) = current_user"
            " from pg_roles, pg_class where rolname = current_user and pg_class.oid = 'document'::regclass"
        ).fetchone()
    assert row == (False, False, True)


def test_the_dba_line_reads_every_workspace_and_every_partition(demo: Demo) -> None:
    with psycopg.connect(demo.values["DBA"]) as connection:
        assert connection.execute(
            "select array_agg(distinct workspace_id order by workspace_id) from audit.timeline"
        ).fetchone() == (["acme", "globex", None],)
        assert connection.execute("select 1 from audit.entry_beyond").fetchall() == []


def test_the_superuser_does_not_come_in_over_tcp(demo: Demo) -> None:
    address = re.sub(r"//\w+:", "//postgres:", demo.values["Database"])
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(address)


def test_passwords_and_keys_are_readable_by_their_owner_alone(demo: Demo) -> None:
    assert oct((demo.folder / "demo.json").stat().st_mode)[-3:] == "600"


# Its past


def test_the_newest_thousand_entries_hold_every_kind_of_event(demo: Demo) -> None:
    entries = demo.newest(1000)
    assert families(entries) >= {"resource", "documentation", "permission", "role"}
    assert {entry["actor_type"] for entry in entries} == {"user", "service", "system"}
    assert max(entry["row_count"] for entry in entries) > 300
    assert all(entry["event"] != "key_created" for entry in entries[3:])


def test_the_first_workspace_has_thousands_of_entries_and_the_other_hundreds(demo: Demo) -> None:
    assert demo.get("workspace/?page_size=1")[1]["count"] > 4000
    assert demo.get("workspace/?page_size=1", "Other workspace's key")[1]["count"] > 400


def test_the_past_spans_weeks_and_nothing_of_it_lies_in_the_future(demo: Demo) -> None:
    moments = [entry["created_at"] for entry in demo.newest(100_000)]
    assert (moments[0] - moments[-1]).days > 60
    assert moments[0] <= datetime.now(UTC)


def test_every_id_carries_its_moment_and_every_changed_row_has_its_entry(demo: Demo) -> None:
    with psycopg.connect(demo.values["DBA"]) as dba:
        wrong = dba.execute("select from audit.timeline where audit.entry_moment(id) <> created_at").rowcount
        lost = dba.execute(
            "select from audit.timeline_change c"
            " where not exists (select from audit.timeline e where (e.id, e.created_at) = (c.entry_id, c.created_at))"
        ).rowcount
    assert (wrong, lost) == (0, 0)


def test_the_check_finds_no_way_past_the_log(demo: Demo) -> None:
    with psycopg.connect(demo.values["DBA"]) as dba:
        assert dba.execute("select * from audit.check() where severity = 'bypass'").fetchall() == []


def test_the_guards_against_alteration_are_on_again(starts: Starts) -> None:
    # Over the socket, as nobody outside can: even the superuser is refused.
    cluster = Cluster(find_server(), starts.second.folder)
    cluster.port = int(starts.second.values["Database"].rpartition(":")[2].partition("/")[0])
    with (
        psycopg.connect(cluster.url("catalog")) as superuser,
        pytest.raises(psycopg.errors.InsufficientPrivilege, match="only ever added to"),
    ):
        superuser.execute("update audit.entry set actor_name = 'somebody else'")


def test_the_story_is_the_same_each_time_and_goes_forward() -> None:
    last = datetime(2026, 3, 14, 15, 9, tzinfo=UTC)
    story = list(tell(last))
    assert story == list(tell(last))
    assert [activity.moment for activity in story] == sorted(activity.moment for activity in story)


# What is done with it


def test_what_psql_writes_appears_and_only_that(demo: Demo, pg_bin: Path) -> None:
    before = demo.get("workspace/?page_size=1")[1]["count"]
    demo.write(WRITES, pg_bin / "psql")
    after = demo.get("workspace/?page_size=1000&expand=changes")[1]
    entries = after["results"][: after["count"] - before]
    assert [
        (entry["event"], entry["resource_type"], entry["resource_id"], entry["changes"]["row_count"])
        for entry in entries
    ] == [
        ("resource_updated", "invoice", None, 300),
        ("resource_created", "invoice", None, 299),
        ("resource_created", "invoice", "1", 1),
    ]
    assert [entry["performer"] for entry in entries] == [{"id": "4711", "name": "Blaise Pascal"}] * 3


def test_a_resource_shows_its_changes_its_permissions_and_the_bulk_update_that_touched_it(
    demo: Demo, pg_bin: Path
) -> None:
    document = "7b1a4a52-6c1f-4f7e-9a7e-3c8d7a3f1b10"
    demo.write(
        f"""
        insert into document (id, workspace_id, title, owner_id, updated_at)
        values ('{document}', 'acme', 'Tides', 'ada.lovelace', now());
        insert into document_permission (workspace_id, document_id, member_id, level)
        values ('acme', '{document}', 'grace.hopper', 'edit');
        update document set tags = tags || '{{seen}}' where workspace_id = 'acme';
        """,
        pg_bin / "psql",
    )
    entries = demo.get(f"resource/?resource_id={document}&expand=changes")[1]["results"]
    assert [entry["event"] for entry in entries] == ["resource_updated", "permission_granted", "resource_created"]
    assert entries[0]["changes"]["row_count"] > 100


def test_post_is_forbidden(demo: Demo) -> None:
    refusal = {"detail": "You do not have permission to perform this action."}
    assert demo.get("workspace/", method="POST") == (403, refusal)


def test_a_member_is_forbidden(demo: Demo) -> None:
    refusal = {"detail": "You do not have permission to perform this action."}
    assert demo.get("workspace/", "Member's key") == (403, refusal)


def test_the_other_workspace_sees_none_of_the_first(demo: Demo) -> None:
    own = {entry["id"] for entry in demo.get("workspace/?page_size=1000")[1]["results"]}
    other = {entry["id"] for entry in demo.get("workspace/?page_size=1000", "Other workspace's key")[1]["results"]}
    first_member = demo.get("resource/?resource_id=ada.lovelace", "Other workspace's key")[1]
    assert (own & other, first_member["count"]) == (set(), 0)


def test_it_writes_nothing_by_itself_once_it_serves(demo: Demo) -> None:
    count = "select count(*) from audit.timeline"
    with psycopg.connect(demo.values["DBA"], autocommit=True) as dba:
        before = dba.execute(count).fetchone()
        demo.get("workspace/")
        time.sleep(1)
        assert dba.execute(count).fetchone() == before


# How it stops and starts again


def test_ctrl_c_ends_it_with_exit_code_0_and_without_a_traceback(starts: Starts) -> None:
    assert starts.exit_code == 0
    assert "Traceback" not in starts.first.messages.read_text()


def test_ctrl_c_leaves_no_server_behind(starts: Starts) -> None:
    assert starts.left_by_first == []


def test_ctrl_c_half_way_leaves_a_folder_that_is_begun_again(pg_bin: Path, server_folder: Path) -> None:
    code, said = interrupted_while_filling(server_folder / "demo", pg_bin)
    assert code == 0
    assert said.splitlines()[1:] == [
        "Filling with 75 days of activity: 0 %",
        "Filling with 75 days of activity: 25 %",
        "Stopped; what is not complete is begun again at the next start.",
    ]
    assert json.loads((server_folder / "demo" / "demo.json").read_text())["is_complete"] is False
    assert not (server_folder / "demo" / "data" / "postmaster.pid").exists()


def test_statements_that_ctrl_c_left_unsent_are_not_told_of(
    db: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    with suppress(KeyboardInterrupt), without_warnings(), db.pipeline():
        db.execute("select 1 / 0")
        raise KeyboardInterrupt
    assert caplog.messages == []


def test_a_second_start_takes_seconds_and_keeps_data_and_values(starts: Starts) -> None:
    assert starts.second.started_after < 20
    assert {**starts.second.values, "URL": ""} == {**starts.first.values, "URL": ""}
    known = Counter(entry["id"] for entry in starts.second.newest(100_000))
    assert Counter(entry["id"] for entry in starts.newest_of_first) - known == Counter()


def test_a_second_demo_in_the_same_folder_is_refused_with_a_sentence(demo: Demo, pg_bin: Path) -> None:
    code, said = refused(pg_bin, "--port", "0", "--fresh", "--data", demo.folder)
    assert (code, said.count("\n")) == (2, 1)
    assert said.startswith(f"daybook: Another demo runs in {demo.folder}")


def test_a_busy_port_is_refused_with_a_sentence_before_anything_is_made(pg_bin: Path, server_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        code, said = refused(pg_bin, "--port", port, "--data", server_folder / "demo")
    assert (code, said.count("\n"), (server_folder / "demo").exists()) == (2, 1, False)
    assert f"port {port}: Address already in use" in said


def test_an_unwritable_folder_is_refused_with_a_sentence(pg_bin: Path, server_folder: Path) -> None:
    (server_folder / "file").touch()
    code, said = refused(pg_bin, "--port", "0", "--data", server_folder / "file" / "demo")
    assert (code, said) == (
        2,
        f"daybook: {server_folder}/file/demo cannot be used: Not a directory. Name another folder with --data.\n",
    )


def test_a_missing_binary_is_refused_with_a_sentence(server_folder: Path) -> None:
    code, said = refused(server_folder, "--port", "0", "--data", server_folder / "demo")
    assert (code, said.count("\n"), (server_folder / "demo").exists()) == (2, 1, False)
    assert said.startswith(f"daybook: DAYBOOK_POSTGRES_BIN names {server_folder}")


# Its folder


def test_a_folder_with_other_files_is_refused_and_nothing_in_it_changes(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("mine")
    with (
        pytest.raises(FolderError, match="is no demo's folder: nothing was changed"),
        open_folder(tmp_path, fresh=True),
    ):
        pass
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("data", "mine")]


def test_a_past_that_is_not_complete_is_begun_again(tmp_path: Path) -> None:
    with open_folder(tmp_path):
        (tmp_path / "data").mkdir()
    with open_folder(tmp_path):
        assert [file.name for file in tmp_path.iterdir()] == ["demo.json"]


def test_a_complete_past_is_kept(tmp_path: Path) -> None:
    with open_folder(tmp_path) as folder:
        folder.state.is_complete = True
        folder.save()
        (tmp_path / "data").mkdir()
    with open_folder(tmp_path):
        assert (tmp_path / "data").is_dir()


def test_fresh_deletes_what_the_demo_made_and_nothing_else(tmp_path: Path) -> None:
    with open_folder(tmp_path) as folder:
        folder.state.is_complete = True
        folder.save()
        (tmp_path / "data").mkdir()
        (tmp_path / "mine").touch()
    with open_folder(tmp_path, fresh=True) as folder:
        assert sorted(file.name for file in tmp_path.iterdir()) == ["demo.json", "mine"]
        assert not folder.state.is_complete


def test_two_demos_cannot_hold_one_folder(tmp_path: Path) -> None:
    with open_folder(tmp_path), pytest.raises(FolderError, match="Another demo runs"), open_folder(tmp_path):
        pass


def test_its_folder_follows_the_base_directory_specification(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", "/srv/state")
    assert default_folder() == Path("/srv/state/pg-daybook/demo")


def test_roots_folder_is_a_persistent_temporary_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_folder() == Path("/var/tmp/pg-daybook-demo")
