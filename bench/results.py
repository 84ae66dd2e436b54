"""The raw figures, kept part by part, so that parts can be measured apart and the report be written again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bench.parameters import PARTS, WORK


@dataclass(frozen=True)
class Kept:
    """One part's figures, and how they came about."""

    run: str
    parameters: dict[str, Any]
    machine: dict[str, str]
    versions: dict[str, str]
    figures: Any


def keep(part: str, kept: Kept) -> None:
    """Keep a part's figures, in place of those before."""
    WORK.mkdir(parents=True, exist_ok=True)
    (WORK / f"{part}.json").write_text(json.dumps(asdict(kept), indent=1) + "\n", encoding="utf-8")


def forget(part: str) -> None:
    """Forget a part's figures: a part that fails now must not be told with older ones."""
    (WORK / f"{part}.json").unlink(missing_ok=True)


def kept() -> dict[str, Kept]:
    """Return what is kept, by part."""
    paths = {part: WORK / f"{part}.json" for part in PARTS}
    return {part: Kept(**json.loads(path.read_text("utf-8"))) for part, path in paths.items() if path.exists()}


def differences(parts: Mapping[str, Kept]) -> list[str]:
    """Return what has to be said when parts come from different runs."""
    runs = {kept.run for kept in parts.values()}
    if len(runs) < 2:
        return []
    return [
        f"These parts come from {len(runs)} runs: "
        + "; ".join(
            f"{part} of {kept.machine['date']} ({kept.versions['arcbackupd']})" for part, kept in parts.items()
        )
        + "."
    ]
