"""What an attacker gains: a table to which his functions write with whose rights they were run.

It must not hold attacks: those stand in the tests.
"""

from typing import Any

from tests.trail import Connection

LAY = """
create table public.loot (who text);
grant select, insert on public.loot to public;
create function public.grab() returns void language plpgsql as
    $$ begin insert into public.loot values (current_user); end $$;
"""


def lay(attacker: Connection) -> Connection:
    """Make the table and `grab()`, which notes in it whose rights it has; return the connection."""
    attacker.execute(LAY.encode())
    return attacker


def bait(attacker: Connection, signature: str, returns: str, result: str, volatility: str = "volatile") -> None:
    """Make a function of the attacker's that grabs before it returns an expression."""
    body = f"begin perform public.grab(); return {result}; end"
    attacker.execute(
        f"create function {signature} returns {returns} language plpgsql {volatility} as $$ {body} $$".encode()
    )


def stolen(db: Connection, attacker: str) -> list[tuple[Any, ...]]:
    """Return the roles, other than the attacker himself, with whose rights his functions were run."""
    return db.execute("select distinct who from public.loot where who <> %s order by who", [attacker]).fetchall()
