"""What is done to the tables: which rows each piece of work changes, and by which statements.

It must not measure: the same pieces, small, prove that a system records every change.
"""

from __future__ import annotations

from dataclasses import dataclass

from .tables import DOCUMENT, DOCUMENT_VALUES, WIDE


@dataclass(frozen=True)
class Sizes:
    """How much a run does: rows of the bulk statements, transactions of each client, those before the timed ones.

    A one-row workload is done so many times a round, the systems taking turns: short pieces differ more by themselves.
    """

    many: int = 100_000
    few: int = 10_000
    alone: int = 300
    together: int = 75
    warm: int = 12
    times: int = 3


# Enough for every piece to change several rows, with room for the warm ones between the ids.
SMALL = Sizes(many=400, few=40, alone=5, together=3, warm=2, times=1)


@dataclass(frozen=True)
class Workload:
    """A piece of work. `clients` 0 is one statement over `rows` rows; else so many clients, a row a transaction."""

    key: str
    title: str
    table: str
    operation: str
    clients: int = 0
    rows: str = ""

    @property
    def is_bulk(self) -> bool:
        return not self.clients

    def transactions(self, sizes: Sizes) -> int:
        """Timed transactions of each client."""
        return sizes.alone if self.clients == 1 else sizes.together

    def changed_rows(self, sizes: Sizes) -> int:
        """Rows that the timed part changes."""
        if self.is_bulk:
            return sizes.many if self.rows == "many" else sizes.few
        return self.clients * self.transactions(sizes)

    def ids(self, sizes: Sizes, client: int, time: int = 0) -> tuple[range, range]:
        """The rows of one client's timed transactions, and of those that warm its session up before."""
        count = self.transactions(sizes)
        first = 1 + (time * self.clients + client) * (count + sizes.warm)
        if self.operation == "INSERT":
            first += sizes.many * (1 if self.clients == 1 else 2)
        elif self.operation == "DELETE":
            first += sizes.many // 2 + (0 if self.clients == 1 else sizes.times * (sizes.alone + sizes.warm))
        return range(first, first + count), range(first + count, first + count + sizes.warm)

    def row_statement(self) -> tuple[str, bool]:
        """The statement of one transaction, and whether it takes a new value before the id."""
        if self.operation == "INSERT":
            return f"insert into {self.table} select {DOCUMENT_VALUES} from (select %s::integer) as source (n)", False
        if self.operation == "DELETE":
            return f"delete from {self.table} where id = %s", False
        return f"update {self.table} set {assignment(self.table)} where id = %s", True

    def bulk_statement(self, sizes: Sizes, value: str) -> str:
        if self.operation == "INSERT":
            return f"insert into {self.table} select {DOCUMENT_VALUES} from generate_series(1, {sizes.many}) n"
        if self.operation == "DELETE":
            start = sizes.many * 8 // 10
            return f"delete from {self.table} where id > {start} and id <= {start + sizes.few}"
        rows = self.changed_rows(sizes)
        return f"update {self.table} set {assignment(self.table).replace('%s', quoted(value))} where id <= {rows}"


def assignment(table: str) -> str:
    """One column gets a new value; the document's updated_at follows, as in most applications."""
    return "state = %s, updated_at = now()" if table == DOCUMENT else "word_1 = %s"


def quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


# In this order a round does them: the first one fills the table that the others change.
FILL = Workload("insert-100000", "INSERT … SELECT of 100,000", DOCUMENT, "INSERT", rows="many")
WORKLOADS = (
    FILL,
    *(
        Workload(
            f"{operation.lower()}-{clients}",
            f"one-row {operation}, {clients} client{'s' if clients > 1 else ''}",
            DOCUMENT,
            operation,
            clients,
        )
        for clients in (1, 8)
        for operation in ("INSERT", "UPDATE", "DELETE")
    ),
    Workload("update-10000", "UPDATE of 10,000", DOCUMENT, "UPDATE", rows="few"),
    Workload("update-100000", "UPDATE of 100,000", DOCUMENT, "UPDATE", rows="many"),
    Workload("delete-10000", "DELETE of 10,000", DOCUMENT, "DELETE", rows="few"),
    Workload("wide-1", "wide row: one-row UPDATE", WIDE, "UPDATE", 1),
    Workload("wide-10000", "wide row: UPDATE of 10,000", WIDE, "UPDATE", rows="few"),
)
# Several rows were deleted one by one before: this statement changes the rows that are left.
