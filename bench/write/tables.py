"""The two tables that every system tracks: a document of about 600 bytes a row, and a wide one of 60 columns and 4 kB.

It must not know any system: every database gets the same two.
"""

from __future__ import annotations

DOCUMENT = "document"
WIDE = "wide"

DOCUMENT_COLUMNS = {
    "id": "integer primary key",
    "workspace_id": "text not null",
    "title": "text",
    "description": "text",
    "owner_id": "uuid",
    "state": "text",
    "stars": "numeric",
    "tags": "text[]",
    "details": "jsonb",
    "created_at": "timestamptz",
    "updated_at": "timestamptz",
}
# The values of row number n.
DOCUMENT_VALUES = """
    n, 'acme', 'Document number ' || n, repeat('lorem ipsum ', 25), gen_random_uuid(), 'draft', n,
    array['finance', 'weekly'], '{"source": "warehouse", "columns": ["a", "b", "c"]}'::jsonb, now(), now()
"""

NUMBERS, MOMENTS, WORDS = range(1, 21), range(1, 16), range(1, 22)
WIDE_COLUMNS = {
    "id": "integer primary key",
    "workspace_id": "text not null",
    **{f"number_{number}": "integer" for number in NUMBERS},
    **{f"moment_{number}": "timestamptz" for number in MOMENTS},
    **{f"word_{number}": "text" for number in WORDS},
    "summary": "text",
    "body": "text",
}
# The two long texts are drawn from 200 that compress about as prose does.
LONG_TEXTS = """
    select t, string_agg(substr('lorem ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod tempor',
                                1 + abs(hashint4(t * 1000 + k)) % 68, 8), '') as long_text
    from generate_series(1, 200) t, generate_series(1, 170) k group by t
"""
WIDE_VALUES = ", ".join(
    [
        "n",
        "'acme'",
        *(f"n * {number}" for number in NUMBERS),
        *(f"now() - {number} * interval '1 day'" for number in MOMENTS),
        *(f"'word {number} ' || md5((n + {number})::text)" for number in WORDS),
        "(select long_text from texts where t = 1 + n % 100)",
        "(select long_text from texts where t = 101 + n % 100)",
    ]
)


def creation(wide_rows: int) -> list[str]:
    """Return the statements that make both tables and fill the wide one; the document's rows come with the rounds."""
    return [
        f"create table {DOCUMENT} ({definitions(DOCUMENT_COLUMNS)}) with (fillfactor = 50)",
        f"create table {WIDE} ({definitions(WIDE_COLUMNS)}) with (fillfactor = 50)",
        f"create temporary table texts as {LONG_TEXTS}",
        "create unique index on texts (t)",
        f"insert into {WIDE} select {WIDE_VALUES} from generate_series(1, {wide_rows}) n",
    ]


def definitions(columns: dict[str, str]) -> str:
    return ", ".join(f"{name} {definition}" for name, definition in columns.items())
