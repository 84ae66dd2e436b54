"""Varlink messages: bytes from a stranger into a checked request, replies and errors into bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from arcbackupd.control.interface import SERVICE_INTERFACE, Reply, error_name
from arcbackupd.errors import ArcbackupdError, UsageError

_SHOWN = 100  # characters of a name that a stranger sent, in what we say about it


class Request(BaseModel):
    """The envelope of a call. Keys that Varlink doesn't define are ignored, as in its other servers."""

    model_config = ConfigDict(strict=True, frozen=True, hide_input_in_errors=True)

    method: str
    parameters: dict[str, Any] | None = None
    more: bool | None = None
    oneway: bool | None = None
    upgrade: bool | None = None


class VarlinkFault(Exception):
    """One of the errors that ``org.varlink.service`` defines."""

    def __init__(self, name: str, **parameters: str) -> None:
        super().__init__(name)
        self.name = f"{SERVICE_INTERFACE}.{name}"
        self.parameters = {key: shown(value) for key, value in parameters.items()}


def parse(message: bytes) -> Request:
    """Take a message apart. Raise UsageError when it is no Varlink call, whatever else it may be."""
    try:
        value = json.loads(
            message.decode("utf-8"),
            object_pairs_hook=_object,
            parse_float=_finite,
            parse_constant=_finite,
        )
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # no half of a surrogate pair anywhere inside
        return Request.model_validate(value)
    except RecursionError as error:
        raise _malformed("it is nested too deeply") from error
    except ValidationError as error:
        raise _malformed(f"{where(error) or 'it'} is missing or not what Varlink says") from error
    except UnicodeError as error:
        raise _malformed("it is not UTF-8") from error
    except ValueError as error:
        raise _malformed("it is not JSON") from error


def where(error: ValidationError) -> str:
    """Name of the first member that a validation error complains about."""
    return ".".join(str(part) for part in error.errors(include_url=False, include_input=False)[0]["loc"])


def shown(text: str) -> str:
    """A stranger's text, short enough to be repeated to him."""
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def reply(parameters: Reply, *, continues: bool = False) -> bytes:
    """A reply on the wire. Raise TypeError or ValueError when JSON can't hold it."""
    message: dict[str, object] = {"parameters": parameters}
    if continues:
        message["continues"] = True
    return _encode(message)


def error_reply(error: ArcbackupdError | VarlinkFault) -> bytes:
    """An error on the wire."""
    if isinstance(error, VarlinkFault):
        return _encode({"error": error.name, "parameters": error.parameters})
    return _encode({"error": error_name(error), "parameters": error.as_dict()})


def _encode(message: Mapping[str, object]) -> bytes:
    # Half a surrogate pair (from a file name that is no UTF-8) would make the reply unreadable for others.
    return json.dumps(message, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace") + b"\0"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key comes twice")
    return value


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("not a finite number")
    return number


def _malformed(why: str) -> UsageError:
    return UsageError(
        "malformed-request",
        f"The message is not a Varlink call: {why}.",
        hint='Send {"method": "io.arcsecond.Backups.List", "parameters": {}} and a NUL byte; see docs/control.md.',
    )
