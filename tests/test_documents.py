"""Documents that name tests: each of them is there, and so is all that a document must have."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEST_NAME = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
FAULTS = {"A": 12, "B": 19, "C": 12, "D": 8, "E": 14, "F": 13, "G": 18, "H": 9, "I": 7, "J": 18}


def text_of(document: str) -> str:
    """A document's text."""
    return (ROOT / document).read_text(encoding="utf-8")


def functions_of(path: Path) -> set[str]:
    """The names of a file's functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def rows_behind(page: str, heading: str) -> list[str]:
    """The rows of the tables behind a heading, without their heads."""
    rows = [line for line in page.split(heading)[1].splitlines() if line.startswith("| ")]
    return [row for row, before in zip(rows, ["", *rows], strict=False) if before]


@pytest.mark.parametrize("document", ["SECURITY.md", "docs/reliability.md"])
def test_every_test_that_a_document_names_is_there(document: str) -> None:
    """Each is a function of its file."""
    named = TEST_NAME.findall(text_of(document))
    assert len(named) > 20
    for path, name in named:
        assert name in functions_of(ROOT / path), f"{path} has no {name}"


def test_every_attack_has_a_test() -> None:
    """Each row of SECURITY.md's table names one."""
    rows = rows_behind(text_of("SECURITY.md"), "## Attacks tried")
    assert len(rows) > 20
    assert [row for row in rows if not TEST_NAME.search(row)] == []


def test_the_security_page_has_the_limits_as_they_are() -> None:
    """Each default in its table of limits is the one in the README's table of options, which is made from them."""
    rows = re.findall(r"^\| (`--[a-z-]+` \| `[^`]+` \|)", text_of("SECURITY.md"), re.MULTILINE)
    assert len(rows) >= 7
    assert [row for row in rows if f"| {row}" not in text_of("README.md")] == []


def test_every_fault_has_its_row() -> None:
    """From A1 to the last of J each has one row, with a test, or with the reason why there is none."""
    page = text_of("docs/reliability.md").split("## Faults")[1]
    rows = dict(re.findall(r"^\| ([A-J]\d+) \|(.*)$", page, re.MULTILINE))
    assert list(rows) == [f"{letter}{number + 1}" for letter, count in FAULTS.items() for number in range(count)]
    assert len(re.findall(r"^\| [A-J]\d+ \|", page, re.MULTILINE)) == len(rows)
    for name, row in rows.items():
        is_explained = "not a feature: " in row or "can't be tested here: " in row
        assert "`tests/" in row or is_explained, f"{name} has neither a test nor a reason"
        assert "FAIL" not in row, f"{name} is not finished"
