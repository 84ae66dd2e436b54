"""The inputs that fuzzing found, and the seeds it began with: each is taken well, within its limits."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import pump, targets
from tests.fuzz.campaign import result
from tests.fuzz.cuts import pieces
from tests.fuzz.replay import complaint

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", targets.NAMES)
def test_every_input_of_the_corpus_is_taken_within_its_limits(name: str) -> None:
    command = [sys.executable, "-m", "tests.fuzz.replay", name]
    replayed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
    assert f"{name}: {sum(1 for _ in targets.corpus(name).iterdir())} inputs, 0 of them" in replayed.stdout


def test_each_target_has_a_corpus_and_words_and_the_corpus_stays_small() -> None:
    files = [path for name in targets.NAMES for path in targets.corpus(name).iterdir()]
    assert {path.name for path in targets.corpus(targets.NAMES[0]).parent.iterdir()} == set(targets.NAMES)
    assert all(targets.words(name).is_file() for name in targets.NAMES)
    assert sum(path.stat().st_size for path in files) < 1 << 20


def test_an_input_that_spins_is_complained_of() -> None:
    def spin(_data: bytes) -> None:
        while True:
            pass

    assert complaint(spin, b"", seconds=0.05) == "it takes more than 0.05 s of the processor"


def test_an_input_that_takes_much_memory_is_complained_of_though_it_gives_it_back() -> None:
    def swell(_data: bytes) -> None:
        assert len(bytearray(64 << 20)) == 64 << 20

    assert re.fullmatch(r"it takes 6\d MiB of memory", complaint(swell, b"", memory=32 << 20) or "")


def test_an_input_that_fails_is_complained_of_with_its_traceback() -> None:
    def fail(data: bytes) -> None:
        raise KeyError(data)

    told = complaint(fail, b"x")
    assert told
    assert told.endswith("KeyError: b'x'\n")


def test_an_input_that_is_taken_well_is_not_complained_of() -> None:
    assert complaint(len, b"x") is None  # type: ignore[arg-type]


def test_a_piece_is_doubled_as_often_as_its_letter_says_and_no_further_than_the_limit() -> None:
    assert pump.pumped(b"(\x01axy\x01)\x01cz\x01") == b"(xyxy)zzzzzzzz"
    assert len(pump.pumped(b"\x01tab\x01" * 3)) == pump.limit


def test_the_pieces_of_a_text_are_the_text() -> None:
    for text in (b"", b"short", bytes(range(256)) * 40):
        assert b"".join(pieces(text)) == text
        assert len(pieces(text)) > 1 or len(text) < 2


def test_the_result_of_a_run_is_read_from_what_the_fuzzer_prints() -> None:
    log = "#33\tINITED cov: 291 ft: 824 corp: 32/10486b rss: 63Mb\n#40\tDONE   cov: 300 ft: 901 corp: 40/1b\n"
    told = result("scanner", log + "stat::number_of_executed_units: 40\n", 0)
    assert (told.executions, told.coverage_before, told.coverage, told.finding) == (40, 291, 300, None)
    crashed = result("scanner", log + "artifact_prefix='x'; Test unit written to x/scanner-crash-0a\n", 77)
    assert crashed.finding == "x/scanner-crash-0a"
    assert result("scanner", "", 1).finding == "the fuzzer ended with status 1, see its log"
