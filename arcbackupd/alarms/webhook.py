"""News sent to a URL: ``type = "webhook"``. As JSON, or as plain text for services that show what they get."""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, SecretStr, field_validator

from arcbackupd.alarms import AlarmSettings, StateAlarm, StateAlarmSettings
from arcbackupd.alarms.http import HttpSettings, post, secret_from
from arcbackupd.alarms.news import News
from arcbackupd.alarms.words import TEST, document, test_document, text
from arcbackupd.settings import AbsolutePath

SIGNATURE = "X-Arcbackupd-Signature-256"
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[\t -~]*")
_OURS = {"content-type", "content-length", "host", "transfer-encoding", "connection", SIGNATURE.lower()}


def _header(value: SecretStr) -> SecretStr:
    if not _VALUE.fullmatch(value.get_secret_value()):
        raise ValueError("must be a line of plain characters")
    return value


class WebhookSettings(HttpSettings, StateAlarmSettings):
    """``format``: "json" (docs/alarms.md) or "text"; ``headers`` are sent besides, as an ``Authorization``.

    ``secret``, or a file that holds it: signs the body, by HMAC-SHA256.
    """

    format: Literal["json", "text"] = "json"
    headers: dict[str, Annotated[SecretStr, AfterValidator(_header)]] = {}
    secret: Annotated[SecretStr, Field(min_length=1)] | None = None
    secret_file: AbsolutePath | None = None

    @field_validator("headers")
    @classmethod
    def _not_ours(cls, value: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name in value:
            if not _NAME.fullmatch(name) or name.lower() in _OURS:
                raise ValueError("a header that can't be set")
        return value


class WebhookAlarm(StateAlarm[WebhookSettings]):
    """See the module."""

    Settings: ClassVar[type[AlarmSettings]] = WebhookSettings

    def tell(self, news: News) -> None:
        """See `StateAlarm.tell`."""
        self._send(document(news, self.host), text(news, self.host))

    def test(self) -> None:
        """See `Alarm.test`."""
        self._send(test_document(self.host), f"{self.host}: {TEST}\n")

    def _send(self, json: bytes, plain: str) -> None:
        settings = self.settings
        body, kind = (json, "application/json") if settings.format == "json" else (plain.encode(), "text/plain")
        headers = {name: value.get_secret_value() for name, value in settings.headers.items()}
        if secret := self._secret():
            headers[SIGNATURE] = f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"
        post(settings, settings.address(), body, {**headers, "Content-Type": f"{kind}; charset=utf-8"})

    def _secret(self) -> str | None:
        if self.settings.secret is not None:
            return self.settings.secret.get_secret_value()
        return secret_from(self.settings.secret_file, "secret_file") if self.settings.secret_file else None
