"""Parts of a machine that a test may need, and what happens when this machine lacks one.

Without more, such a test is skipped, with the reason. With ARCBACKUPD_TEST_REQUIRE it fails: set it to ``all``,
or to some of docker, podman, systemd, postgres, root, rclone, restic, sftp, debhelper, lintian, groff, mandoc,
fuse, faketime, loop, separated by commas.
"""

from __future__ import annotations

import os
from typing import Literal, NoReturn

import pytest

Kind = Literal[
    "docker",
    "podman",
    "systemd",
    "postgres",
    "root",
    "rclone",
    "restic",
    "sftp",
    "debhelper",
    "lintian",
    "groff",
    "mandoc",
    "fuse",
    "faketime",
    "loop",
]
"""What may be missing."""


def required(kind: str) -> bool:
    """Return whether a test that needs this part may not be skipped here."""
    asked = {part.strip() for part in os.environ.get("ARCBACKUPD_TEST_REQUIRE", "").split(",")}
    return bool(asked & {"all", kind})


def require(kind: Kind, reason: str) -> NoReturn:
    """End the test because this machine lacks ``kind``: skipped, or failed where that is required."""
    if required(kind):
        pytest.fail(f"{kind} is required here (ARCBACKUPD_TEST_REQUIRE): {reason}", pytrace=False)
    pytest.skip(reason)
