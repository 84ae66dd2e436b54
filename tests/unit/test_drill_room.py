"""How often a drill looks at the room on the database's disk."""

from __future__ import annotations

import pytest

from arcbackupd.operations.drill.room import RESERVE, pause


@pytest.mark.parametrize(("free", "seconds"), [(0, 1), (RESERVE, 1), (RESERVE + 5 * 10**9, 10), (10**12, 30)])
def test_it_looks_again_before_the_fastest_load_could_have_taken_what_may_be_taken(
    free: int, seconds: float
) -> None:
    assert pause(free) == seconds
