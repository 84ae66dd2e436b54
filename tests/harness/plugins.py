"""A third party's package with a plugin, as a real wheel: no build backend is needed for one module."""

from __future__ import annotations

import base64
import hashlib
import textwrap
import zipfile
from pathlib import Path


def build_plugin(directory: Path, name: str, source: str, entry: str, *, group: str = "arcbackupd.jobs") -> Path:
    """Write the wheel of a package with one module and one plugin (``weather = module:Class``); return its path."""
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": textwrap.dedent(source),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[{group}]\n{entry}\n",
    }
    record = [f"{path},sha256={_digest(text)},{len(text.encode())}" for path, text in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,"]) + "\n"
    wheel = directory / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return wheel


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
