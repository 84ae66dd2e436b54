"""The programs behind destinations, the package and the manual: found, or installed where we may."""

from __future__ import annotations

import os
import shutil
from typing import Literal

from tests.harness.engine import EngineUnavailable, install_packages, work_dir
from tests.harness.process import exclusive
from tests.require import require

Tool = Literal["rclone", "restic", "sftp", "debhelper", "lintian", "groff", "mandoc"]

_PROGRAMS: dict[Tool, tuple[str, str]] = {
    "rclone": ("rclone", "rclone"),
    "restic": ("restic", "restic"),
    "sftp": ("sshd", "openssh-server"),
    "debhelper": ("dh", "debhelper"),
    "lintian": ("lintian", "lintian"),
    "groff": ("groff", "groff-base"),
    "mandoc": ("mandoc", "mandoc"),
}
"""Each tool's program, and Debian's package with it."""

_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))


def tool(name: Tool) -> str:
    """Return the path of a program, installed if need be; end the test where there is none, as `require` does."""
    program, package = _PROGRAMS[name]
    if found := shutil.which(program, path=_PATH):
        return found
    if os.geteuid() != 0:
        require(name, f"{program} isn't installed, and only root may install it: it is in the package {package}")
    try:
        with exclusive(work_dir() / "engine.lock"):
            install_packages(package)
    except EngineUnavailable as error:
        require(name, str(error))
    return shutil.which(program, path=_PATH) or require(name, f"the package {package} has no {program}")
