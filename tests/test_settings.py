"""Settings from the environment: defaults, and a sentence that names the wrong one."""

from ipaddress import ip_network
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from daybook.settings import SettingError, Settings

URL = {"DAYBOOK_DATABASE_URL": "postgresql://reader:open@db/app"}


def test_the_database_s_address_is_all_that_is_needed() -> None:
    settings = Settings.from_environment(URL)
    assert settings == Settings(database_url="postgresql://reader:open@db/app")
    assert (settings.host, settings.port, settings.pool_size) == ("127.0.0.1", 8000, 10)


def test_all_settings_are_read() -> None:
    settings = Settings.from_environment(
        {
            **URL,
            "DAYBOOK_PUBLIC_URL": "https://log.example/audit/",
            "DAYBOOK_TRUSTED_PROXIES": "10.0.0.0/8, fd00::/8",
            "DAYBOOK_HOST": "::",
            "DAYBOOK_PORT": "80",
            "DAYBOOK_POOL_SIZE": "3",
            "DAYBOOK_POOL_TIMEOUT": "2500",
            "DAYBOOK_STATEMENT_TIMEOUT": "5s",
            "DAYBOOK_SECURE_COOKIE": "always",
        }
    )
    assert settings == Settings(
        database_url=URL["DAYBOOK_DATABASE_URL"],
        public_url="https://log.example/audit",
        trusted_proxies=(ip_network("10.0.0.0/8"), ip_network("fd00::/8")),
        host="::",
        port=80,
        pool_size=3,
        pool_timeout=2.5,
        statement_timeout=5.0,
        secure_cookie="always",
    )


def test_an_empty_variable_counts_as_not_set() -> None:
    assert Settings.from_environment({**URL, "DAYBOOK_PORT": "", "DAYBOOK_PUBLIC_URL": " "}).port == 8000


def test_the_password_may_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("se'cret \nsecond line\n", encoding="utf-8")
    settings = Settings.from_environment({**URL, "DAYBOOK_DATABASE_PASSWORD_FILE": str(tmp_path / "password")})
    assert conninfo_to_dict(settings.conninfo)["password"] == "se'cret "


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://db,replica:5433/app?sslmode=verify-full&connect_timeout=5",
        "host=/run/postgresql,db port=5432, keepalives=0 target_session_attrs=any",
        "postgresql:///app?host=%2Frun%2Fpostgresql&port=",
        "service=log",
    ],
)
def test_what_libpq_takes_is_taken(url: str) -> None:
    assert Settings.from_environment({"DAYBOOK_DATABASE_URL": url}).database_url == url


@pytest.mark.parametrize("name", ["DAYBOOK_POOL_TIMEOUT", "DAYBOOK_STATEMENT_TIMEOUT"])
def test_a_bare_number_is_milliseconds_for_every_time(name: str) -> None:
    settings = Settings.from_environment({**URL, name: "1500"})
    assert 1.5 in (settings.pool_timeout, settings.statement_timeout)


def test_no_password_shows_when_settings_are_printed(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret", encoding="utf-8")
    settings = Settings.from_environment({**URL, "DAYBOOK_DATABASE_PASSWORD_FILE": str(tmp_path / "password")})
    assert "open" not in repr(settings)
    assert "secret" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DAYBOOK_DATABASE_URL", ""),
        ("DAYBOOK_DATABASE_URL", "mysql://db"),
        ("DAYBOOK_DATABASE_URL", "host"),
        ("DAYBOOK_DATABASE_URL", "postgresql://u:x@h:port/d"),
        ("DAYBOOK_DATABASE_URL", "postgresql://u:x@h:0/d"),
        ("DAYBOOK_DATABASE_URL", "postgresql://u:x@h:5432,i:x/d"),
        ("DAYBOOK_DATABASE_URL", "postgresql://u:x@h/d?sslmode=foo"),
        ("DAYBOOK_DATABASE_URL", "postgresql://u:x@h/d?target_session_attrs=master"),
        ("DAYBOOK_DATABASE_URL", "host=h connect_timeout=abc"),
        ("DAYBOOK_DATABASE_URL", "host=h keepalives=yes"),
        ("DAYBOOK_DATABASE_URL", "postgresql://h/\udcff"),
        ("DAYBOOK_DATABASE_PASSWORD_FILE", "/nothing/here"),
        ("DAYBOOK_PUBLIC_URL", "log.example"),
        ("DAYBOOK_PUBLIC_URL", "ftp://log.example"),
        ("DAYBOOK_PUBLIC_URL", "https://"),
        ("DAYBOOK_PUBLIC_URL", "https://user@log.example"),
        ("DAYBOOK_PUBLIC_URL", "https://log.example/?x"),
        ("DAYBOOK_PUBLIC_URL", "https://log.example:http"),
        ("DAYBOOK_PUBLIC_URL", "https://log.example:0"),
        ("DAYBOOK_PUBLIC_URL", "https://[::1"),
        ("DAYBOOK_PUBLIC_URL", "https://log.example/a b"),
        ("DAYBOOK_TRUSTED_PROXIES", "10.0.0.1/8"),
        ("DAYBOOK_TRUSTED_PROXIES", "proxy"),
        ("DAYBOOK_PORT", "http"),
        ("DAYBOOK_PORT", "65536"),
        ("DAYBOOK_PORT", "-1"),
        ("DAYBOOK_POOL_SIZE", "0"),
        ("DAYBOOK_POOL_SIZE", "\uff11"),
        ("DAYBOOK_POOL_TIMEOUT", "0"),
        ("DAYBOOK_STATEMENT_TIMEOUT", "soon"),
        ("DAYBOOK_STATEMENT_TIMEOUT", "2h"),
        ("DAYBOOK_SECURE_COOKIE", "yes"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingError, match=rf"^{name} .*\.$") as error:
        Settings.from_environment({**URL, name: value})
    assert error.value.name == name


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://reader:secret@[db/app",
        "postgresql://reader:p@ss:secret@db/app",
        "postgresql://reader@db/app?sslmode=secret",
        "host=db connect_timeout=secret",
    ],
)
def test_a_wrong_database_url_is_not_repeated_with_its_password(url: str) -> None:
    with pytest.raises(SettingError) as error:
        Settings.from_environment({"DAYBOOK_DATABASE_URL": url})
    assert "secret" not in str(error.value)


def test_a_misspelt_setting_is_named_with_its_neighbour() -> None:
    settings = Settings.from_environment({**URL, "DAYBOOK_TRUSTED_PROXY": "10.0.0.0/8", "DAYBOOK_X": "1"})
    assert settings.warnings == (
        "DAYBOOK_TRUSTED_PROXY is no setting of daybook and is ignored; did you mean DAYBOOK_TRUSTED_PROXIES?",
        "DAYBOOK_X is no setting of daybook and is ignored",
    )
