"""Signs actors with the application's key, so that tables which demand it believe them.

It must not show a key: not in a repr, not in an error, not in a log.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import time
from base64 import urlsafe_b64decode
from binascii import Error as NotBase64
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Lock

from .settings import SettingError

SIGNATURE = "signature"
VARIABLE, FILE_VARIABLE, LIFETIME_VARIABLE = "DAYBOOK_ACTOR_KEY", "DAYBOOK_ACTOR_KEY_FILE", "DAYBOOK_ACTOR_LIFETIME"
# Seconds: long enough for clocks that differ, short enough for what leaks into a log.
LIFETIME = 300
# Each value that is signed, in this order, after the database's name and the signature's end.
SIGNED = ("actor_type", "actor_id", "actor_name", "request_id")
# What a refusal says of the actor (sql/072_signature.sql), by the word that `refusal` returns for it.
_PROBLEMS = {
    "is not named": "missing",
    "is not signed": "missing",
    "has a signature that has expired": "expired",
    "has a signature that does not fit": "wrong",
}


class ActorKey:
    """A key as `audit.add_actor_key` returned its text; `id` may be shown, the rest not."""

    __slots__ = ("_database", "_hash", "id", "lifetime")

    def __init__(self, text: str, lifetime: int = LIFETIME) -> None:
        """Read a key. Raises ValueError, which does not repeat it. lifetime: seconds that a signature holds."""
        parts = re.fullmatch(r"actor-([0-9a-f]{8})-([A-Za-z0-9_-]{43})@(.+)", text.strip(), re.DOTALL)
        if parts is None:
            raise ValueError("it is no key that audit.add_actor_key returned")
        try:
            secret = urlsafe_b64decode(parts[2] + "=")
        except NotBase64:
            raise ValueError("it is no key that audit.add_actor_key returned") from None
        self.id = parts[1]
        self.lifetime = lifetime
        self._database = parts[3]
        self._hash = hmac.new(secret, digestmod=hashlib.sha256)

    def __repr__(self) -> str:
        return f"<ActorKey {self.id}>"

    def __reduce__(self) -> str:
        raise TypeError("a key is not to be copied into a pickle")

    def sign(self, settings: Mapping[str, str], now: float | None = None) -> str:
        """Return the setting `audit.signature` for these settings, valid `lifetime` seconds from now (Unix time)."""
        ends = f"{int(time.time() if now is None else now) + self.lifetime:010}"
        mac = self._hash.copy()
        fields = (self._database, ends, *(settings.get(name, "") for name in SIGNED))
        mac.update(b"daybook actor 1\0" + "\0".join(fields).encode("utf-8"))
        return f"{self.id}.{ends}.{mac.hexdigest()}"


_lock = Lock()
_key: ActorKey | None = None
_is_read = False


def sign_with(key: ActorKey | str | None) -> None:
    """Sign actors with this key from now on, in this process; None: with none, whatever the environment says."""
    global _key, _is_read
    with _lock:
        _key, _is_read = ActorKey(key) if isinstance(key, str) else key, True


def current_key() -> ActorKey | None:
    """Return the key to sign with: `sign_with`'s, else the environment's, read once. Raises SettingError."""
    global _key, _is_read
    if not _is_read:
        with _lock:
            if not _is_read:
                _key, _is_read = _key_of(os.environ), True
    return _key


def _key_of(environment: Mapping[str, str]) -> ActorKey | None:
    text, name = environment.get(VARIABLE, ""), VARIABLE
    if path := environment.get(FILE_VARIABLE, ""):
        name = FILE_VARIABLE
        if text:
            raise SettingError(name, f"and {VARIABLE} are both set; set one")
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingError(name, f"names a file that cannot be read: {type(error).__name__}") from None
    if not text.strip():
        return None
    lifetime = environment.get(LIFETIME_VARIABLE) or str(LIFETIME)
    if not re.fullmatch(r"[0-9]{1,5}", lifetime) or int(lifetime) == 0:
        raise SettingError(LIFETIME_VARIABLE, "is no number of seconds from 1 to 99999")
    try:
        return ActorKey(text, int(lifetime))
    except ValueError as error:
        raise SettingError(name, f"cannot be used: {error}") from None


def refusal(error: BaseException) -> str | None:
    """Return why a write was refused for want of a signed actor: `missing`, `expired` or `wrong`; None: it was not.

    error: psycopg's, or what SQLAlchemy or Django made of it.
    """
    for cause in _causes(error):
        said = getattr(cause, "diag", None)
        if said is not None and said.constraint_name == "actor_is_signed":
            text = said.message_primary or ""
            return next((word for problem, word in _PROBLEMS.items() if text.endswith(problem)), "wrong")
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        original = getattr(error, "orig", None)
        error = original if isinstance(original, BaseException) else error.__cause__
