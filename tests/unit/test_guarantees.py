"""The page of guarantees names tests that exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

PAGE = Path("docs/guarantees.md")


def promises(text: str) -> Iterator[list[str]]:
    """The rows of the page's tables, but for their heads."""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and cells[0] != "promise" and set(cells[0]) != {"-"}:
            yield cells


def test_every_test_that_the_guarantees_name_exists(repository: Path) -> None:
    text = (repository / PAGE).read_text()
    there = {
        name
        for path in (repository / "tests").rglob("*.py")
        for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    named = set(re.findall(r"`(test_\w+)`", text))
    assert named - there == set()


def test_every_guarantee_names_a_test(repository: Path) -> None:
    rows = list(promises((repository / PAGE).read_text()))
    assert len(rows) > 30
    assert [cells for cells in rows if len(cells) != 3 or not re.search(r"`test_\w+`", cells[2])] == []
