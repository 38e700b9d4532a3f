"""What a connection sends to its server, as libpq traces it.

It must not judge it.
"""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from psycopg.pq.abc import PGconn


@contextmanager
def wire(connection: PGconn) -> Iterator[list[str]]:
    """Yield a list that holds, once the block has ended, the statements that it sent."""
    statements: list[str] = []
    with tempfile.TemporaryFile("w+") as file:
        connection.trace(file.fileno())
        try:
            yield statements
        finally:
            connection.untrace()
        file.seek(0)
        statements += re.findall(r'\tF\t.*\t(?:Query|Parse)\t (?:"" )?"(.*)"', file.read())
