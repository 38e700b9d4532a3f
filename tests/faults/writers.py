"""Writers: each runs transactions of several statements over several tracked tables, on rows of its own.

They must not wait for each other: at any moment most of them are inside a transaction that has written.
"""

import random
import select
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

import psycopg

from tests.faults.ledger import Change, Row, Rows, State, Transaction

Connection = psycopg.Connection[tuple[Any, ...]]

TABLES = """
create table document (id bigint primary key, workspace_id text not null, title text, stars integer not null);
create table permission (id bigint primary key, workspace_id text not null, level text not null,
    document_id bigint not null references document on update cascade on delete cascade);
create index permission_by_document on permission (document_id);
create table measure (day integer, number bigint, workspace_id text not null, value text, primary key (day, number))
    partition by range (day);
create table measure_early partition of measure for values from (0) to (5);
create table measure_late partition of measure for values from (5) to (10);
create table memo (text text, workspace_id text not null, stars integer);
"""
# No two writers have a row in common, and a row that gets another key gets one that no row had before.
IDS_OF_A_WRITER, KEY_SHIFT = 10**12, 10**8
MOST_ROWS = 300
# Seconds of thinking between two statements, at most. Every fourth writer is in a hurry: kills shall meet commits too.
THINKING, HURRY = 0.03, 0.001


def create_tables(connection: Connection, writers: int) -> None:
    """Make the tables, tracked and empty, with a table of its own for each writer; nobody logs in as their owner."""
    connection.execute(TABLES.encode())
    names = ["document", "permission", "measure", "memo"]
    for number in range(writers):
        names.append(f"scratch_{number}")
        connection.execute(
            f"create table scratch_{number} (id bigint primary key, workspace_id text not null, title text)".encode()
        )
    for name in names:
        settings = ", 'permission', resource_id_columns => '{document_id}'" if name == "permission" else ""
        connection.execute(f"select audit.enable_tracking('{name}'{settings})".encode())
        connection.execute(f"alter table {name} owner to audit_writer".encode())
    connection.execute(
        "alter table measure_early owner to audit_writer; alter table measure_late owner to audit_writer"
    )


class StoppedError(Exception):
    """The server is being killed: a writer says nothing more to it."""


class Writer:
    """A writer with its rows and the ledger of its transactions; it lives through all rounds."""

    def __init__(self, number: int, seed: int) -> None:
        self.number = number
        self.random = random.Random(seed)
        self.thinking = HURRY if number % 4 == 3 else THINKING
        self.rows: Rows = {}
        self.ledger: list[Transaction] = []
        self.error: BaseException | None = None
        # Errors that a fault may bring before `stop` is set: each ends a transaction, not the writer.
        self.forgives: tuple[type[psycopg.Error], ...] = ()
        self.failed: Counter[str] = Counter()
        self.connection: Connection | None = None
        self._last_id = number * IDS_OF_A_WRITER
        self._stop = threading.Event()

    def work(self, url: str, ready: threading.Barrier, stop: threading.Event) -> None:
        """Run transactions until the server is gone. What goes wrong before `stop` is set is kept in `error`."""
        self._stop = stop
        is_new = True
        while True:
            try:
                with closing(psycopg.connect(url, autocommit=True)) as connection:
                    self.connection = connection
                    if is_new:
                        ready.wait(30)
                        is_new = False
                    while True:
                        self._transact_or_fail(connection)
            except StoppedError:
                return
            except psycopg.OperationalError as error:
                if stop.is_set():
                    return
                if is_new or not isinstance(error, self.forgives):
                    self.error = error
                    return
                self._note_failure(error)
                if self.ledger and self.ledger[-1].state is State.COMMITTING:
                    # Nobody but the server knows what it may go on with.
                    return
            except BaseException as error:
                self.error = error
                ready.abort()
                return
            finally:
                self.connection = None

    def _transact_or_fail(self, connection: Connection) -> None:
        try:
            self.transact(connection)
        except self.forgives as error:
            # A session that is ended during its commit does not tell how that ended.
            if connection.closed or isinstance(error, psycopg.errors.AdminShutdown):
                raise
            self._note_failure(error)
            self.ledger[-1].state = State.ROLLED_BACK
            while connection.info.transaction_status is not psycopg.pq.TransactionStatus.IDLE:
                with suppress(psycopg.errors.QueryCanceled):
                    connection.execute("rollback")

    def _note_failure(self, error: psycopg.Error) -> None:
        self.failed[type(error).__name__] += 1
        if self.ledger and self.ledger[-1].state is State.OPEN:
            self.ledger[-1].state = State.ROLLED_BACK

    def transact(self, connection: Connection) -> None:
        """Run one transaction, and keep what it must leave."""
        transaction = self.begin(connection)
        for _ in range(self.random.randint(2, 8)):
            self._think()
            if self.random.random() < 0.1:
                self._try(connection, transaction)
            else:
                self._statement()(connection, transaction)
        self._think()
        if self.random.random() < 0.1:
            connection.execute("rollback")
            transaction.state = State.ROLLED_BACK
            return
        self.commit(connection, transaction)

    def begin(self, connection: Connection) -> Transaction:
        """Begin a transaction, the next of the ledger."""
        transaction = Transaction(f"{self.number}-{len(self.ledger)}", dict(self.rows))
        self.ledger.append(transaction)
        connection.execute("begin")
        connection.execute("select audit.set_context(request_id => %s)", [transaction.request_id])
        return transaction

    def commit(self, connection: Connection, transaction: Transaction) -> None:
        """Commit it: in doubt until there is an answer."""
        transaction.state = State.COMMITTING
        self._commit(connection)
        transaction.state = State.COMMITTED
        self.rows = transaction.rows

    def _think(self) -> None:
        if self._stop.wait(self.random.uniform(0, self.thinking)):
            raise StoppedError

    def _commit(self, connection: Connection) -> None:
        """Commit, and be late in reading the answer: so kills meet commits that are done and that nobody knows of."""
        connection.pgconn.send_query(b"commit")
        while connection.pgconn.flush():
            select.select([], [connection], [])
        if self._stop.wait(self.random.uniform(0, self.thinking / 2)):
            raise StoppedError
        results = []
        while result := self._result(connection):
            results.append(result)
        # What comes after the answer is not about the commit.
        if results[0].status != psycopg.pq.ExecStatus.COMMAND_OK:
            code = (results[0].error_field(psycopg.pq.DiagnosticField.SQLSTATE) or b"").decode()
            failure = psycopg.errors.lookup(code) if code else psycopg.OperationalError
            raise failure(results[0].get_error_message())

    def _result(self, connection: Connection) -> psycopg.pq.abc.PGresult | None:
        """The next result, None after the last."""
        # Before each: get_result() would wait for what is still to come and let no other thread run meanwhile, not even
        # the proxy that hands it on.
        while connection.pgconn.is_busy():
            select.select([connection], [], [])
            connection.pgconn.consume_input()
        return connection.pgconn.get_result()

    def _try(self, connection: Connection, transaction: Transaction) -> None:
        savepoint = transaction.savepoint()
        connection.execute("savepoint attempt")
        for _ in range(self.random.randint(1, 3)):
            self._statement()(connection, transaction)
        if self.random.random() < 0.7:
            connection.execute("rollback to attempt")
            transaction.roll_back_to(savepoint)
        else:
            connection.execute("release attempt")

    def _statement(self) -> Callable[[Connection, Transaction], None]:
        forms = {
            self._insert_document: 3,
            self._insert_documents: 3,
            self._update_document: 3,
            self._update_documents: 3,
            self._update_nothing: 1,
            self._shift_keys: 2,
            self._delete_documents: 2,
            self._upsert: 2,
            self._grant: 3,
            self._change_levels: 2,
            self._copy_measures: 2,
            self._move_measures: 2,
            self._delete_measures: 1,
            self._write_memos: 2,
            self._update_memos: 2,
            self._delete_memo: 1,
            self._fill_scratch: 2,
            self._truncate_scratch: 1,
        }
        return self.random.choices(list(forms), list(forms.values()))[0]

    # The statements: each is executed, then noted as what it must have done.

    def _insert_document(self, connection: Connection, transaction: Transaction) -> None:
        row = self._new_document()
        connection.execute("insert into document values (%(id)s, %(workspace_id)s, %(title)s, %(stars)s)", row)
        transaction.write([Change("document", None, row)])

    def _insert_documents(self, connection: Connection, transaction: Transaction) -> None:
        rows = [self._new_document() for _ in range(self._many())]
        columns = [[row[name] for row in rows] for name in ("id", "workspace_id", "title", "stars")]
        connection.execute(
            "insert into document select * from unnest(%s::bigint[], %s::text[], %s::text[], %s::integer[])", columns
        )
        transaction.write([Change("document", None, row) for row in rows])

    def _update_document(self, connection: Connection, transaction: Transaction) -> None:
        for row in self._some(transaction, "document", 1):
            after = {**row, "title": self._text()}
            connection.execute("update document set title = %s where id = %s", [after["title"], row["id"]])
            transaction.write([Change("document", row, after)])

    def _update_documents(self, connection: Connection, transaction: Transaction) -> None:
        rows = self._some(transaction, "document", self._many())
        title = self._text()
        connection.execute(
            "update document set title = case when stars > 2 then %s else title end, stars = stars + 1"
            " where id = any(%s::bigint[])",
            [title, [row["id"] for row in rows]],
        )
        transaction.write(
            [
                Change(
                    "document",
                    row,
                    {**row, "title": title if row["stars"] > 2 else row["title"], "stars": row["stars"] + 1},
                )
                for row in rows
            ]
        )

    def _update_nothing(self, connection: Connection, transaction: Transaction) -> None:
        ids = [row["id"] for row in self._some(transaction, "document", self._many())]
        connection.execute("update document set title = title where id = any(%s::bigint[])", [ids])

    def _shift_keys(self, connection: Connection, transaction: Transaction) -> None:
        rows = self._some(transaction, "document", self.random.choice([1, 5]))
        ids = [row["id"] for row in rows]
        connection.execute("update document set id = id + %s where id = any(%s::bigint[])", [KEY_SHIFT, ids])
        permissions = [row for row in self._all(transaction, "permission") if row["document_id"] in ids]
        transaction.write(
            [Change("document", row, {**row, "id": row["id"] + KEY_SHIFT}) for row in rows]
            + [Change("permission", row, {**row, "document_id": row["document_id"] + KEY_SHIFT}) for row in permissions]
        )

    def _delete_documents(self, connection: Connection, transaction: Transaction) -> None:
        too_many = len(self._all(transaction, "document")) > MOST_ROWS
        rows = self._some(transaction, "document", MOST_ROWS if too_many else self.random.choice([1, 4]))
        ids = [row["id"] for row in rows]
        connection.execute("delete from document where id = any(%s::bigint[])", [ids])
        permissions = [row for row in self._all(transaction, "permission") if row["document_id"] in ids]
        transaction.write(
            [Change("document", row, None) for row in rows] + [Change("permission", row, None) for row in permissions]
        )

    def _upsert(self, connection: Connection, transaction: Transaction) -> None:
        known = self._some(transaction, "document", 3)
        new = [self._new_document() for _ in range(2)]
        rows = [{**row, "title": self._text()} for row in known] + new
        columns = [[row[name] for row in rows] for name in ("id", "workspace_id", "title", "stars")]
        connection.execute(
            "insert into document select * from unnest(%s::bigint[], %s::text[], %s::text[], %s::integer[])"
            " on conflict (id) do update set title = excluded.title",
            columns,
        )
        transaction.write(
            [Change("document", before, after) for before, after in zip(known, rows, strict=False)]
            + [Change("document", None, row) for row in new]
        )

    def _grant(self, connection: Connection, transaction: Transaction) -> None:
        rows = [
            {
                "id": self._next_id(),
                "workspace_id": row["workspace_id"],
                "level": "read",
                "document_id": row["id"],
            }
            for row in self._some(transaction, "document", self.random.choice([1, 6]))
        ]
        columns = [[row[name] for row in rows] for name in ("id", "workspace_id", "level", "document_id")]
        connection.execute(
            "insert into permission select * from unnest(%s::bigint[], %s::text[], %s::text[], %s::bigint[])", columns
        )
        transaction.write([Change("permission", None, row) for row in rows])

    def _change_levels(self, connection: Connection, transaction: Transaction) -> None:
        rows = self._some(transaction, "permission", self.random.choice([1, 6]))
        level = self.random.choice(["read", "write", "own"])
        connection.execute(
            "update permission set level = %s where id = any(%s::bigint[])", [level, [row["id"] for row in rows]]
        )
        transaction.write([Change("permission", row, {**row, "level": level}) for row in rows])

    def _copy_measures(self, connection: Connection, transaction: Transaction) -> None:
        rows = [
            {
                "day": self.random.randrange(10),
                "number": self._next_id(),
                "workspace_id": self._workspace(),
                "value": self._text(),
            }
            for _ in range(self._many())
        ]
        with connection.cursor().copy("copy measure from stdin") as copy:
            for row in rows:
                copy.write_row(list(row.values()))
        transaction.write([Change("measure", None, row) for row in rows])

    def _move_measures(self, connection: Connection, transaction: Transaction) -> None:
        rows = self._some(transaction, "measure", self.random.choice([1, 8]))
        connection.execute(
            "update measure set day = 9 - day where number = any(%s::bigint[])", [[row["number"] for row in rows]]
        )
        transaction.write([Change("measure", row, {**row, "day": 9 - row["day"]}) for row in rows])

    def _delete_measures(self, connection: Connection, transaction: Transaction) -> None:
        rows = self._all(transaction, "measure")
        rows = rows if len(rows) > MOST_ROWS else rows[:5]
        connection.execute("delete from measure where number = any(%s::bigint[])", [[row["number"] for row in rows]])
        transaction.write([Change("measure", row, None) for row in rows])

    def _write_memos(self, connection: Connection, transaction: Transaction) -> None:
        rows = [
            {"text": f"{self._text()} {self._next_id()}", "workspace_id": self._workspace(), "stars": 0}
            for _ in range(self.random.choice([1, 3]))
        ]
        connection.execute(
            "insert into memo select text, workspace, 0 from unnest(%s::text[], %s::text[]) m(text, workspace)",
            [[row["text"] for row in rows], [row["workspace_id"] for row in rows]],
        )
        transaction.write([Change("memo", None, row) for row in rows])

    def _update_memos(self, connection: Connection, transaction: Transaction) -> None:
        rows = self._some(transaction, "memo", self.random.choice([1, 4]))
        connection.execute(
            "update memo set stars = stars + 1 where text = any(%s::text[])", [[row["text"] for row in rows]]
        )
        transaction.write([Change("memo", row, {**row, "stars": row["stars"] + 1}) for row in rows])

    def _delete_memo(self, connection: Connection, transaction: Transaction) -> None:
        for row in self._some(transaction, "memo", 1):
            connection.execute("delete from memo where text = %s", [row["text"]])
            transaction.write([Change("memo", row, None)])

    def _fill_scratch(self, connection: Connection, transaction: Transaction) -> None:
        table = f"scratch_{self.number}"
        rows = [
            {"id": self._next_id(), "workspace_id": self._workspace(), "title": self._text()}
            for _ in range(self._many())
        ]
        connection.execute(
            f"insert into {table} select * from unnest(%s::bigint[], %s::text[], %s::text[])".encode(),
            [[row[name] for row in rows] for name in ("id", "workspace_id", "title")],
        )
        transaction.write([Change(table, None, row) for row in rows])

    def _truncate_scratch(self, connection: Connection, transaction: Transaction) -> None:
        connection.execute(f"truncate scratch_{self.number}".encode())
        transaction.truncate(f"scratch_{self.number}")

    # What the statements are about

    def _next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def _workspace(self) -> str:
        return self.random.choice(["acme", "umbrella"])

    def _text(self) -> str:
        # Now and then one that is too long for a page, and not to be compressed into one.
        length = 2500 if self.random.random() < 0.12 else 2
        return f"{self.random.choice('äbcdé')} {self.random.randbytes(length).hex()}"

    def _many(self) -> int:
        return self.random.choice([2, 5, 20, 100])

    def _new_document(self) -> Row:
        return {
            "id": self._next_id(),
            "workspace_id": self._workspace(),
            "title": self._text(),
            "stars": self.random.randrange(5),
        }

    def _all(self, transaction: Transaction, table: str) -> list[Row]:
        return list(transaction.rows.get(table, {}).values())

    def _some(self, transaction: Transaction, table: str, number: int) -> list[Row]:
        rows = self._all(transaction, table)
        return self.random.sample(rows, min(number, len(rows)))
