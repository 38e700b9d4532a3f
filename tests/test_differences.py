"""Values side by side: words, elements, marks, and bounds whatever the values hold."""

import json
import random
from typing import Any

import pytest

from daybook.page.differences import MOST_STEPS, Budget, Field, Side, align, write_fields


def kind_of(value: Any) -> str:
    kinds = {str: "string", bool: "boolean", int: "number", list: "array", dict: "object", type(None): "null"}
    return kinds[type(value)]


def text_of(value: Any) -> str | None:
    return None if value is None else value if isinstance(value, str) else json.dumps(value)


def field(before: Any, after: Any) -> Field:
    """The field of a column with these values, as the database hands them over."""
    sides = [(kind_of(value), text_of(value), len(text_of(value) or "")) for value in (before, after)]
    [found] = write_fields([("x", *sides[0], *sides[1])])
    return found


def told(side: Side) -> str:
    """A side's parts with what changed in brackets."""
    return "".join(f"[{part.text}]" if part.mark else part.text for part in side.parts) or side.note


@pytest.mark.parametrize(
    ("value", "note"),
    [
        (None, "null"),
        ("", "empty text"),
        ([], "empty list"),
        ({}, "empty object"),
        ("null", "null"),
        ({"redacted": True}, "redacted"),
        ({"cut": True, "bytes": 70000, "sha256": "ab"}, "too long to be kept: 70,000 bytes, SHA-256 ab"),
        ({"cut": True, "bytes": 7, "sha256": "ab", "more": 1}, '{"cut": true, "bytes": 7, "sha256": "ab", "more": 1}'),
        (0, "0"),
        (False, "false"),
    ],
)
def test_what_is_no_text_is_said_in_words(value: Any, note: str) -> None:
    assert told(field(1, value).after) == note


def test_null_is_a_note_and_the_text_null_is_none() -> None:
    assert (field(1, None).after.note, field(1, "null").after.note) == ("null", "")


def test_a_column_that_is_on_one_side_only_is_nothing_on_the_other() -> None:
    [found] = write_fields([("x", None, None, None, "string", "new", 3)])
    assert (told(found.before), told(found.after)) == ("nothing", "new")


def test_long_texts_are_told_word_by_word() -> None:
    found = field("Revenue is counted monthly, in EUR, by us.", "Revenue is counted each week, in EUR, by us.")
    assert told(found.before) == "Revenue is counted [monthly], in EUR, by us."
    assert told(found.after) == "Revenue is counted [each week], in EUR, by us."


def test_texts_with_little_in_common_are_told_whole() -> None:
    found = field("Rows younger than seven days may still change.", "How it is counted and since when; may it be so.")
    assert told(found.before) == "[Rows younger than seven days may still change.]"


def test_short_texts_stand_side_by_side() -> None:
    assert told(field("draft two", "draft three").after) == "draft three"


@pytest.mark.parametrize(
    ("before", "after", "elements"),
    [
        (["a", "b", "c"], ["a", "c", "d"], ["old b", "new d", " 2 unchanged"]),
        ({"a": 1, "b": {"c": [1, 2]}}, {"a": 2, "b": {"c": [1, 2]}}, ["old a: 1", "new a: 2", " 1 unchanged"]),
        ({"a": None}, {"b": ""}, ["old a: null", 'new b: ""']),
        ([1, "1"], ["1", 1.50], ["old 1", "new 1.5", " 1 unchanged"]),
    ],
)
def test_lists_and_objects_are_told_by_their_elements(before: Any, after: Any, elements: list[str]) -> None:
    assert [f"{part.mark} {part.text}" for part in field(before, after).elements] == elements


def test_a_number_stays_as_it_is_written() -> None:
    [found] = write_fields([("x", "array", "[1.00]", 6, "array", "[1.000, 123456789012345678901]", 30)])
    assert [part.text for part in found.elements] == ["1.00", "1.000", "123456789012345678901"]


def test_deceptive_characters_are_written_out_in_every_part() -> None:
    found = field("Revenue is counted \u202emonthly by all of us", "Revenue is counted \u2066weekly by all of us")
    assert told(found.before) == "Revenue is counted [⟦U+202E⟧monthly] by all of us"
    assert field(["\u202e"], ["\u0007"]).elements[0].text == "⟦U+202E⟧"


@pytest.mark.parametrize("seed", range(20))
def test_an_alignment_gives_both_sides_back_and_is_as_short_as_the_best(seed: int) -> None:
    chance = random.Random(seed)
    before, after = (["abcd"[chance.randrange(4)] for _ in range(chance.randrange(12))] for _ in range(2))
    steps = align(before, after, Budget())
    assert [text for mark, text in steps if mark != "new"] == before
    assert [text for mark, text in steps if mark != "old"] == after
    assert sum(not mark for mark, _ in steps) == longest_common(before, after)


def longest_common(before: list[str], after: list[str]) -> int:
    """The length of the longest common subsequence, by the textbook's table."""
    table = [[0] * (len(after) + 1) for _ in range(len(before) + 1)]
    for i, one in enumerate(before):
        for j, other in enumerate(after):
            table[i + 1][j + 1] = table[i][j] + 1 if one == other else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def test_what_would_cost_too_much_is_told_whole_within_the_budget() -> None:
    chance = random.Random(1)
    before, after = (" ".join(chance.choice("abcdefgh") for _ in range(5000)) for _ in range(2))
    budget = Budget()
    fields = write_fields([(str(n), "string", before, 9999, "string", after, 9999) for n in range(100)], budget)
    assert MOST_STEPS > budget.steps > -5000
    assert told(fields[-1].after).startswith(after[:100])
    assert budget.characters > -3_000_000


@pytest.mark.parametrize("text", ["[" * 5000 + "]" * 5000, '{"a":' * 3000 + "1" + "}" * 3000])
def test_values_of_any_depth_are_told_as_text(text: str) -> None:
    kind = "array" if text[0] == "[" else "object"
    [found] = write_fields([("x", kind, text, len(text), kind, text + " ", len(text) + 1)])
    assert (told(found.before), found.elements) == (text, ())


def test_a_megabyte_is_cut_and_the_rest_is_counted() -> None:
    [found] = write_fields([("x", None, None, None, "string", "y" * 10_000, 1_000_000)])
    assert (found.after.is_long, found.after.left_out) == (True, 990_000)
