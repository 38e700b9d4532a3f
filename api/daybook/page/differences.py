"""Differences are the values of an entry side by side: what was, what is, and which words or elements differ.

They cost no more than a bounded number of steps, whatever the values hold. Nothing here knows HTML.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..sentences import Stored, show

# Comparisons that the values of one page may cost together, and differences that are looked for in one value.
MOST_STEPS = 400_000
MOST_DIFFERENCES = 400
# Characters that one page shows of all values together before the rest are cut short.
MOST_CHARACTERS = 200_000
SHORT = 200
# From so many characters on a text is compared word by word: below, two short values are read faster side by side.
LONG_TEXT = 40
FOLDED = 1000

_WORDS = re.compile(r"\s+|\w+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a value; `mark` is old, new, or nothing where both sides have it."""

    text: str
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Side:
    """A value as the page shows it: its parts, or a note on what it is; and how many characters are not shown."""

    parts: Sequence[Part] = ()
    note: str = ""
    left_out: int = 0

    @property
    def is_long(self) -> bool:
        """Whether it is better folded."""
        return self.left_out > 0 or sum(len(part.text) for part in self.parts) > FOLDED


@dataclass(frozen=True, slots=True)
class Field:
    """One column before and after. `elements` take the place of both where a list or object is told by its elements:
    each a mark, its key (empty: a list's) and its text.
    """

    column: str
    before: Side
    after: Side
    elements: Sequence[Part] = ()


NOTHING = Side(note="nothing")


class Budget:
    """What the values of one page may still cost."""

    def __init__(self) -> None:
        self.steps = MOST_STEPS
        self.characters = MOST_CHARACTERS


def write_fields(values: Sequence[Stored], budget: Budget | None = None) -> list[Field]:
    """The columns of an entry, side by side."""
    budget = budget or Budget()
    return [_field(stored, budget) for stored in values]


def summarise(values: Sequence[Stored], most: int = 3) -> tuple[list[tuple[str, str, str]], int]:
    """The first columns of an update in short, each with what was and what is, and how many more there are."""
    told = [
        (show(column, 60), _short(before_type, before), _short(after_type, after))
        for column, before_type, before, _, after_type, after, _ in values[:most]
    ]
    return told, len(values) - len(told)


def write_side(kind: str | None, text: str | None, length: int | None) -> Side:
    """One value alone."""
    note = _note(kind, text, length)
    if note:
        return Side(note=note)
    assert text is not None
    return Side([Part(show(text, len(text)))], left_out=(length or 0) - len(text))


def _short(kind: str | None, text: str | None) -> str:
    return _note(kind, text, None) or show(text or "", 60)


def _note(kind: str | None, text: str | None, length: int | None) -> str:
    """What is said in place of a value that cannot be shown as its own text."""
    if kind is None:
        return "nothing"
    if kind == "null":
        return "null"
    if kind == "string" and text == "":
        return "empty text"
    if kind == "array" and text == "[]":
        return "empty list"
    if kind == "object":
        return _marker(text or "")
    return ""


def _marker(text: str) -> str:
    if text == "{}":
        return "empty object"
    if text == '{"redacted": true}':
        return "redacted"
    if text.startswith('{"cut": true, "bytes":') or ('"cut": true' in text and '"sha256":' in text and len(text) < 200):
        found = _parsed(text)
        if isinstance(found, dict) and set(found) == {"cut", "bytes", "sha256"}:
            return f"too long to be kept: {int(found['bytes']):,} bytes, SHA-256 {found['sha256']}"
    return ""


def _field(stored: Stored, budget: Budget) -> Field:
    column, before_type, before, before_length, after_type, after, after_length = stored
    name = show(column)
    if budget.characters < 0:
        before, after = (text if text is None else text[:SHORT] for text in (before, after))
    budget.characters -= len(before or "") + len(after or "")
    sides = write_side(before_type, before, before_length), write_side(after_type, after, after_length)
    whole = not any(side.left_out or side.note for side in sides)
    if whole and before is not None and after is not None and before != after:
        if before_type == after_type and before_type in ("array", "object"):
            elements = _elements(_parsed(before), _parsed(after), budget)
            if elements:
                return Field(name, *sides, elements)
        elif before_type == after_type == "string" and max(len(before), len(after)) >= LONG_TEXT:
            return Field(name, *_by_words(before, after, budget))
    return Field(name, *sides)


def _by_words(before: str, after: str, budget: Budget) -> tuple[Side, Side]:
    steps = _readable(align(_WORDS.findall(before), _WORDS.findall(after), budget))
    return (
        Side(_joined((mark, text) for mark, text in steps if mark != "new")),
        Side(_joined((mark, text) for mark, text in steps if mark != "old")),
    )


def _readable(steps: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The same as a person tells it: blanks between changed words changed too, and what has little in common whole."""
    words = [mark for mark, text in steps if not text.isspace()]
    if words.count("") * 3 < len(words):
        kept = [("old", text) for mark, text in steps if mark != "new"]
        return [*kept, *(("new", text) for mark, text in steps if mark != "old")]
    told: list[tuple[str, str]] = []
    for index, (mark, text) in enumerate(steps):
        beside = (steps[index - 1][0] if index else "", steps[index + 1][0] if index + 1 < len(steps) else "")
        if not mark and text.isspace() and all(beside):
            told += [("old", text), ("new", text)]
        else:
            told.append((mark, text))
    return told


def _joined(steps: Any) -> list[Part]:
    """The parts with neighbours of one mark put together, made safe to show."""
    runs: list[tuple[str, list[str]]] = []
    for mark, text in steps:
        if not runs or runs[-1][0] != mark:
            runs.append((mark, []))
        runs[-1][1].append(text)
    return [Part(show(text := "".join(texts), len(text)), mark) for mark, texts in runs]


def _elements(before: Any, after: Any, budget: Budget) -> list[Part]:
    """The elements that differ, and how many do not."""
    if isinstance(before, list) and isinstance(after, list):
        steps = align([_text(item) for item in before], [_text(item) for item in after], budget)
        found = [Part(show(text), mark) for mark, text in steps if mark]
        same = sum(not mark for mark, _ in steps)
    elif isinstance(before, dict) and isinstance(after, dict):
        found, same = [], 0
        for key in [*before, *(key for key in after if key not in before)]:
            texts = [_text(side[key]) if key in side else None for side in (before, after)]
            if texts[0] == texts[1]:
                same += 1
                continue
            found += [
                Part(f"{show(key)}: {show(text)}", mark)
                for text, mark in zip(texts, ("old", "new"), strict=True)
                if text is not None
            ]
    else:
        return []
    if same:
        found.append(Part(f"{same:,} unchanged"))
    return found


class _Number(str):
    """A number as it is written: no float changes it."""

    __slots__ = ()


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, parse_float=_Number, parse_int=_Number)
    except (ValueError, RecursionError):
        return None


def _text(value: Any) -> str:
    if isinstance(value, _Number):
        return str(value)
    if isinstance(value, str):
        return value if value and value not in ("null", "true", "false") and not _is_number(value) else f'"{value}"'
    if isinstance(value, list):
        return "[" + ", ".join(_text(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_text(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"-?[0-9.eE+-]+", text))


def align(before: Sequence[str], after: Sequence[str], budget: Budget) -> list[tuple[str, str]]:
    """What is old, new or in both, in order (E. Myers, An O(ND) Difference Algorithm, 1986).

    Where there are too many differences everything between the common ends is old and new.
    """
    start, end = 0, 0
    shortest = min(len(before), len(after))
    while start < shortest and before[start] == after[start]:
        start += 1
    while end < shortest - start and before[-1 - end] == after[-1 - end]:
        end += 1
    old, new = before[start : len(before) - end], after[start : len(after) - end]
    same_start = [("", text) for text in before[:start]]
    same_end = [("", text) for text in before[len(before) - end :]]
    return [*same_start, *_between(old, new, budget), *same_end]


def _between(old: Sequence[str], new: Sequence[str], budget: Budget) -> list[tuple[str, str]]:
    replaced = [*(("old", text) for text in old), *(("new", text) for text in new)]
    if not old or not new:
        return replaced
    furthest, trail = {1: 0}, []
    for differences in range(min(len(old) + len(new), MOST_DIFFERENCES) + 1):
        trail.append(dict(furthest))
        for diagonal in range(-differences, differences + 1, 2):
            down = diagonal == -differences or (
                diagonal != differences and furthest[diagonal - 1] < furthest[diagonal + 1]
            )
            x = furthest[diagonal + 1] if down else furthest[diagonal - 1] + 1
            began = x
            while x < len(old) and x - diagonal < len(new) and old[x] == new[x - diagonal]:
                x += 1
            furthest[diagonal] = x
            budget.steps -= 1 + x - began
            if x >= len(old) and x - diagonal >= len(new):
                return _walk_back(old, new, trail)
        # What is remembered of each round is copied too.
        budget.steps -= differences
        if budget.steps < 0:
            break
    return replaced


def _walk_back(old: Sequence[str], new: Sequence[str], trail: Sequence[dict[int, int]]) -> list[tuple[str, str]]:
    steps: list[tuple[str, str]] = []
    x, y = len(old), len(new)
    for differences in range(len(trail) - 1, -1, -1):
        furthest, diagonal = trail[differences], x - y
        down = diagonal == -differences or (diagonal != differences and furthest[diagonal - 1] < furthest[diagonal + 1])
        previous = diagonal + 1 if down else diagonal - 1
        from_x = furthest[previous]
        from_y = from_x - previous
        while x > from_x and y > from_y:
            steps.append(("", old[x - 1]))
            x, y = x - 1, y - 1
        if differences:
            steps.append(("new", new[y - 1]) if down else ("old", old[x - 1]))
            x, y = from_x, from_y
    return steps[::-1]
