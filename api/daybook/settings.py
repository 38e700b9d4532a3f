"""Settings reads every DAYBOOK_* variable of the environment, and says which one is wrong.

It opens no connection and reads no file but the one that holds the database password and that with the sentences.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Literal, NamedTuple, TypeVar
from urllib.parse import urlsplit

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from .catalogue import Catalogue, read_catalogue

Network = IPv4Network | IPv6Network
SecureCookie = Literal["auto", "always", "never"]
T = TypeVar("T")

PREFIX = "DAYBOOK_"


class Setting(NamedTuple):
    """One variable of the environment: the row of the README's table."""

    name: str
    default: str
    meaning: str


SETTINGS = (
    Setting(
        "DAYBOOK_DATABASE_URL",
        "",
        "Where the log is: a libpq URL or connection string. Needed by every command but `demo`.",
    ),
    Setting(
        "DAYBOOK_DATABASE_PASSWORD_FILE",
        "",
        "File whose first line is the database password; it takes the place of one in the URL.",
    ),
    Setting(
        "DAYBOOK_PUBLIC_URL",
        "",
        "Address under which clients reach the app, for example `https://audit.example.org`; links are built on it.",
    ),
    Setting(
        "DAYBOOK_TRUSTED_PROXIES",
        "",
        "Networks (CIDR, separated by commas) whose `X-Forwarded-Proto`, `-Host` and `-For` are believed.",
    ),
    Setting("DAYBOOK_HOST", "127.0.0.1", "Address that `serve` listens on."),
    Setting("DAYBOOK_PORT", "8000", "Port that `serve` listens on."),
    Setting("DAYBOOK_POOL_SIZE", "10", "Connections to the database, at most, for each process of `serve`."),
    Setting(
        "DAYBOOK_POOL_TIMEOUT",
        "5s",
        "How long a request waits for a connection before it is answered 503: `5s`, `500ms`, `1min`; a bare number is "
        "milliseconds.",
    ),
    Setting(
        "DAYBOOK_STATEMENT_TIMEOUT",
        "10s",
        "How long one read may take before it is answered 503: `5s`, `500ms`, `1min`; a bare number is milliseconds.",
    ),
    Setting(
        "DAYBOOK_SECURE_COOKIE",
        "auto",
        "Whether the page's cookie is sent over https only: `always`, `never`, or `auto` (when the request was https).",
    ),
    Setting(
        "DAYBOOK_AUTHENTICATOR",
        "",
        "A function of yours, `package.module:name`, that says whom a request comes from (docs/security.md). "
        "Empty: the log's own keys alone.",
    ),
    Setting(
        "DAYBOOK_SENTENCES",
        "",
        "A TOML file with what the page says of your own events, by event (docs/page.md). Empty: their names.",
    ),
    Setting(
        "DAYBOOK_FRAME_ANCESTORS",
        "",
        "Origins that may show the page in a frame of theirs, separated by blanks: `'self' https://app.example.org` "
        "(docs/page.md). Empty: nobody.",
    ),
    Setting(
        "DAYBOOK_SEAL_KEY_FILE",
        "",
        "File with the Ed25519 private key that signs seals (docs/integrity.md); `daybook seal --new-key` makes one. "
        "Empty: they are not signed.",
    ),
    Setting(
        "DAYBOOK_SEAL_DIGESTS",
        "",
        "Where digests of seals are kept: a file, a folder (`…/`, a file for each day) or `-`, standard output. "
        "Empty: in the database alone.",
    ),
    Setting(
        "DAYBOOK_ACTOR_KEY",
        "",
        "Key by which the audited application's helpers sign actors (docs/signed-actors.md).",
    ),
    Setting("DAYBOOK_ACTOR_KEY_FILE", "", "File that holds that key, in its place."),
    Setting("DAYBOOK_ACTOR_LIFETIME", "300", "Seconds that a signature holds."),
    Setting(
        "DAYBOOK_POSTGRES_BIN",
        "",
        "Folder with the PostgreSQL programs that `demo` starts. Empty: an installed wheel, Debian's, then `PATH`.",
    ),
)
# Connection options that libpq judges only when it connects (manual 34.1.2), when it is no wrong setting any more.
WHOLE_NUMBERS = (
    "connect_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
)
CHOICES = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "gssencmode": ("disable", "prefer", "require"),
    "channel_binding": ("disable", "prefer", "require"),
    "target_session_attrs": ("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
    "load_balance_hosts": ("disable", "random"),
}
_DEFAULTS = {setting.name: setting.default for setting in SETTINGS}


class SettingError(Exception):
    """A setting is wrong: `name` is the variable, the text a sentence that names it."""

    def __init__(self, name: str, sentence: str) -> None:
        super().__init__(f"{name} {sentence}")
        self.name = name


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the commands and the app are told by their surroundings; times are in seconds."""

    database_url: str = field(repr=False)
    database_password: str | None = field(default=None, repr=False)
    public_url: str | None = None
    trusted_proxies: tuple[Network, ...] = ()
    host: str = "127.0.0.1"
    port: int = 8000
    pool_size: int = 10
    pool_timeout: float = 5.0
    statement_timeout: float = 10.0
    secure_cookie: SecureCookie = "auto"
    authenticator: Callable[..., Any] | None = None
    catalogue: Catalogue = field(default_factory=Catalogue)
    frame_ancestors: str = "'none'"
    seal_key_file: Path | None = None
    seal_digests: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def conninfo(self) -> str:
        """The libpq connection string, password included: never to be shown."""
        if self.database_password is None:
            return make_conninfo(self.database_url)
        return make_conninfo(self.database_url, password=self.database_password)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Read all settings; an empty variable counts as not set. Raises SettingError for the first wrong one."""

        def read(name: str, parse: Callable[[str], T]) -> T:
            try:
                return parse(environment.get(name, "").strip() or _DEFAULTS[name])
            except UnicodeError:
                # A subclass of ValueError, whose text would repeat the value.
                raise SettingError(name, "is not UTF-8.") from None
            except ValueError as error:
                raise SettingError(name, str(error)) from error

        return cls(
            database_url=read("DAYBOOK_DATABASE_URL", _connection_string),
            database_password=read("DAYBOOK_DATABASE_PASSWORD_FILE", _first_line),
            public_url=read("DAYBOOK_PUBLIC_URL", _public_url),
            trusted_proxies=read("DAYBOOK_TRUSTED_PROXIES", _networks),
            host=read("DAYBOOK_HOST", str),
            port=read("DAYBOOK_PORT", _whole_number(0, 65535)),
            pool_size=read("DAYBOOK_POOL_SIZE", _whole_number(1, 1000)),
            pool_timeout=read("DAYBOOK_POOL_TIMEOUT", _duration),
            statement_timeout=read("DAYBOOK_STATEMENT_TIMEOUT", _duration),
            secure_cookie=read("DAYBOOK_SECURE_COOKIE", _secure_cookie),
            authenticator=read("DAYBOOK_AUTHENTICATOR", _function),
            catalogue=read("DAYBOOK_SENTENCES", _catalogue),
            frame_ancestors=read("DAYBOOK_FRAME_ANCESTORS", _frame_ancestors),
            seal_key_file=read("DAYBOOK_SEAL_KEY_FILE", _path),
            seal_digests=read("DAYBOOK_SEAL_DIGESTS", str) or None,
            warnings=tuple(_unknown(environment)),
        )


def _connection_string(text: str) -> str:
    if not text:
        raise ValueError("is not set: it says where the database is, for example postgresql://reader@localhost/app.")
    try:
        options = conninfo_to_dict(text)
    except ProgrammingError:
        # The parser's own message repeats the text, and with it the password.
        raise ValueError("is neither a libpq URL (postgresql://…) nor a libpq connection string.") from None
    # Neither are values repeated: in a URL of wrong form a part of the password can stand in any of them.
    if not all(_is_port(port) for port in str(options.get("port") or "").split(",") if port):
        raise ValueError("has a port that is no whole number from 1 to 65535.")
    for name in WHOLE_NUMBERS:
        if not re.fullmatch(r"-?[0-9]{1,9}", str(options.get(name) or 0)):
            raise ValueError(f"has a value of {name} that is no whole number.")
    for name, choices in CHOICES.items():
        if options.get(name) and options[name] not in choices:
            raise ValueError(f"has a value of {name} that is none of {', '.join(choices)}.")
    return text


def _is_port(text: str) -> bool:
    return bool(re.fullmatch(r"[0-9]{1,5}", text)) and 0 < int(text) < 65536


def _first_line(text: str) -> str | None:
    if not text:
        return None
    try:
        password = Path(text).read_text(encoding="utf-8").partition("\n")[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ValueError(f"names the file {text}, which cannot be read: {reason}.") from None
    if not password:
        raise ValueError(f"names the file {text}, whose first line is empty.")
    return password


def _path(text: str) -> Path | None:
    return Path(text) if text else None


def _public_url(text: str) -> str | None:
    if not text:
        return None
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        # Of the brackets of an IPv6 address one is missing, or the port is no number.
        good = False
    if not good or parts.query or parts.fragment or "@" in parts.netloc or re.search(r"[^\x21-\x7e]", text):
        raise ValueError("must be an http or https address without user, query or fragment.")
    return text.rstrip("/")


def _networks(text: str) -> tuple[Network, ...]:
    networks = []
    for part in re.split(r"[\s,]+", text):
        try:
            networks += [ip_network(part)] if part else []
        except ValueError:
            raise ValueError(f"holds {part!r}, which is no network in CIDR notation such as 10.0.0.0/8.") from None
    return tuple(networks)


def _whole_number(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
            raise ValueError(f"must be a whole number from {least} to {most}, not {text!r}.")
        return int(text)

    return parse


def _duration(text: str) -> float:
    match = re.fullmatch(r"([0-9]{1,9})(ms|s|min)?", text)
    seconds = int(match[1]) * {"ms": 0.001, "s": 1.0, "min": 60.0}[match[2] or "ms"] if match else 0
    if not 0 < seconds <= 3600:
        raise ValueError(
            f"must be a time such as 500ms, 5s or 1min (a bare number is milliseconds), at most an hour, not {text!r}."
        )
    return seconds


def _secure_cookie(text: str) -> SecureCookie:
    policies: dict[str, SecureCookie] = {"auto": "auto", "always": "always", "never": "never"}
    if text not in policies:
        raise ValueError(f"must be auto, always or never, not {text!r}.")
    return policies[text]


def _function(text: str) -> Callable[..., Any] | None:
    if not text:
        return None
    try:
        if not re.fullmatch(r"[\w.]+:\w+", text):
            raise ValueError
        found = resolve_name(text)
    except (ValueError, ImportError, AttributeError):
        raise ValueError(f"names no function that can be imported, such as package.module:name: {text!r}.") from None
    if not callable(found):
        raise ValueError(f"names {text!r}, which is no function.")
    return found  # type: ignore[no-any-return]


def _catalogue(text: str) -> Catalogue:
    return read_catalogue(text) if text else Catalogue()


def _frame_ancestors(text: str) -> str:
    """Sources as the directive frame-ancestors takes them (CSP 3, 6.4.2): nothing that could add a directive."""
    sources = text.split()
    for source in sources:
        if not re.fullmatch(r"'self'|https?://(?:\*\.)?[A-Za-z0-9.-]+(?::[0-9]{1,5})?", source):
            raise ValueError(
                f"holds {source!r}, which is neither 'self' nor an origin such as https://app.example.org."
            )
    return " ".join(sources) or "'none'"


def _unknown(environment: Mapping[str, str]) -> list[str]:
    return [
        f"{name} is no setting of daybook and is ignored"
        + "".join(f"; did you mean {near}?" for near in get_close_matches(name, _DEFAULTS, n=1, cutoff=0.8))
        for name in sorted(environment)
        if name.startswith(PREFIX) and name not in _DEFAULTS
    ]
