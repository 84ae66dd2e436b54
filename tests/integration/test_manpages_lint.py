"""What those who format manual pages say of ours: nothing."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from manpages.__main__ import main
from tests.harness.tools import tool

pytestmark = pytest.mark.slow  # the formatters may have to be installed


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The pages as `make man` makes them."""
    made = tmp_path_factory.mktemp("man")
    main(made)
    return sorted(made.iterdir())


def test_groff_formats_every_page_without_a_warning(pages: list[Path]) -> None:
    assert len(pages) == 3
    for page in pages:
        done = subprocess.run(
            [tool("groff"), "-man", "-ww", "-Tutf8", page], capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.rstrip().endswith(f"{page.stem}({page.suffix[1:]})")


def test_mandoc_finds_nothing_to_warn_of(pages: list[Path]) -> None:
    argv = [tool("mandoc"), "-T", "lint", "-W", "warning", *map(str, pages)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
