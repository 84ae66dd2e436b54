"""docs/alarms.md has every key and every metric, and its recipes load."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from arcbackupd.alarms.mail import EmailSettings
from arcbackupd.alarms.ping import PingSettings
from arcbackupd.alarms.plugins import LoadedAlarm, load_alarms
from arcbackupd.alarms.webhook import WebhookSettings
from arcbackupd.monitoring.metrics import _GROUPS
from tests.unit.test_metrics import SNAPSHOT

PAGE = (Path(__file__).parents[2] / "docs" / "alarms.md").read_text(encoding="utf-8")
RECIPES = [tomllib.loads(text) for text in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)]
WORDS = set(re.findall(r"\w+", "".join(re.findall(r"`[^`\n]*`", PAGE))))


@pytest.mark.parametrize("settings", [PingSettings, WebhookSettings, EmailSettings])
def test_every_key_of_every_type_is_documented(settings: Any) -> None:
    assert set(settings.model_fields) - WORDS == set()


def test_every_metric_is_documented() -> None:
    names = {family.name for group in _GROUPS for family in group(SNAPSHOT)}
    assert names - WORDS == set()


@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES if "alarms" in recipe], ids=str)
def test_every_recipe_loads(recipe: dict[str, Any]) -> None:
    tables = {name: (table.pop("type"), table) for name, table in recipe["alarms"].items()}
    # Where a part of a URL is left out, the page has an ellipsis.
    for _, table in tables.values():
        table |= {key: value.replace("…", "x") for key, value in table.items() if key == "url"}
    assert all(isinstance(item, LoadedAlarm) for item in load_alarms(tables, "dome").values())
