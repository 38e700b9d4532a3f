"""docs/security.md: each sentence that claims something names the tests that hold it, and those exist.

It must not judge whether they hold it; a reader does.
"""

import re

import pytest

from tests.conftest import REPOSITORY

DOCUMENT = (REPOSITORY / "docs" / "security.md").read_text(encoding="utf-8")
CLAIMS = re.findall(r"^- (.*)", DOCUMENT, re.MULTILINE)
NAMES = re.findall(r"`(test_\w+\.py)::(\w+)`", DOCUMENT)


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_names_its_tests_or_says_why_there_is_none(claim: str) -> None:
    assert re.search(r"\.py::\w+`$|\(no test: [^)]+\)$", claim)


def test_what_has_no_test_is_little() -> None:
    assert sum("(no test: " in claim for claim in CLAIMS) == 3


@pytest.mark.parametrize(("file", "name"), sorted(set(NAMES)))
def test_a_test_that_is_named_exists(file: str, name: str) -> None:
    text = (REPOSITORY / "tests" / file).read_text(encoding="utf-8")
    assert re.search(rf"^def {name}\(", text, re.MULTILINE)
