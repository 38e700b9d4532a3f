"""The catalogue of sentences: what a file may add, and the sentence that a wrong one stops the start with."""

import re
from pathlib import Path

import pytest

from daybook.catalogue import LOG_TYPES, PHRASES, Catalogue, read_catalogue, type_of
from daybook.settings import SettingError, Settings

URL = {"DAYBOOK_DATABASE_URL": "postgresql://reader@db/app"}


def test_every_event_of_the_log_has_a_sentence_and_a_type() -> None:
    assert {event for event in PHRASES if type_of(event) == "other"} == set()
    assert {type_of(event) for event in PHRASES} == set(LOG_TYPES)
    assert type_of("report_exported") == "other"


def test_events_without_a_sentence_say_their_name() -> None:
    assert Catalogue().label("report_exported") == "Report exported"


def test_a_file_adds_sentences_and_labels_and_replaces_those_of_the_log(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text('[sentences]\nlog_viewed = "read"\n[labels]\nlog_viewed = "Read"\n')
    catalogue = Settings.from_environment({**URL, "DAYBOOK_SENTENCES": str(file)}).catalogue
    assert (catalogue.phrase("log_viewed"), catalogue.label("log_viewed")) == (("read",), "Read")
    assert catalogue.phrase("resource_created") == Catalogue().phrase("resource_created")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[sentences", "which is no TOML in UTF-8"),
        ("[words]", "in which nothing but [sentences] and [labels] may stand: words."),
        ("sentences = 1", "in which sentences is no table."),
        ("[sentences]\nx_done = 1", "in which x_done has no text of 1 to 500 characters."),
        ('[sentences]\n"X-done" = "did"', "in which 'X-done' is no event such as dashboard_exported."),
        ('[sentences]\nx_done = "did {resorce}"', "whose sentence for x_done names {resorce}; it may name resource,"),
        ('[sentences]\nx_done = "did [it]"', "whose sentence for x_done has brackets that name nothing: [it]."),
        ('[sentences]\nx_done = "did [{resource}"', "whose sentence for x_done has a [ without its counterpart."),
        ('[sentences]\nx_done = "did resource}"', "whose sentence for x_done has a } without its counterpart."),
    ],
)
def test_a_wrong_file_stops_the_start_with_a_sentence(tmp_path: Path, content: str, complaint: str) -> None:
    file = tmp_path / "s.toml"
    file.write_text(content)
    with pytest.raises(SettingError, match=r"^DAYBOOK_SENTENCES names the file .*" + re.escape(complaint)):
        Settings.from_environment({**URL, "DAYBOOK_SENTENCES": str(file)})


def test_a_file_that_is_not_there_stops_the_start_too(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot be read: No such file or directory\."):
        read_catalogue(str(tmp_path / "none.toml"))


@pytest.mark.parametrize("value", ["none", "*", "'self'; script-src *", "javascript:x", "https://a.example/path"])
def test_who_may_frame_the_page_is_an_origin(value: str) -> None:
    with pytest.raises(SettingError, match=r"^DAYBOOK_FRAME_ANCESTORS holds "):
        Settings.from_environment({**URL, "DAYBOOK_FRAME_ANCESTORS": value})
