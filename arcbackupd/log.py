"""Everything that is logged: entries with fields in the journal, or readable lines on a terminal.

One pipeline, whoever logs: our own ``structlog`` calls, the libraries' ``logging`` calls, and what nobody
caught. Secrets are taken out before anything is written, because journal fields are indexed and every
member of group ``adm`` may read them.

    log.info("Published backup-20260101-120000.sql.gz", backup=…, bytes=…, message_id=MessageId.DUMP_PUBLISHED)

The event is a sentence for people; what programs filter by goes into fields. A ``hint`` says what to do
next and is shown below the sentence.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from datetime import datetime
from typing import Any, Final, TextIO, cast
from urllib.parse import quote

import structlog
from structlog.processors import CallsiteParameter, CallsiteParameterAdder, TimeStamper, format_exc_info
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from arcbackupd.errors import ArcbackupdError

IDENTIFIER: Final = "arcbackupd"
MASK: Final = "***"

Send = Callable[..., object]
"""Takes the fields of one journal entry as keyword arguments."""


def get_logger() -> FilteringBoundLogger:
    """Return a logger. Made once per module; what ``configure_logging`` says later holds for it too."""
    return cast("FilteringBoundLogger", structlog.get_logger())


def bound(**fields: object) -> AbstractContextManager[None]:
    """Add these fields to everything logged inside the ``with`` block, by this task or thread.

    Enter it where the work runs: a thread of a pool doesn't see what was bound where it was enqueued.
    """
    return structlog.contextvars.bound_contextvars(**fields)


def failure(error: ArcbackupdError, **fields: object) -> None:
    """Log an error that an operator can act on: its sentence, its hint and its code, no traceback."""
    get_logger().error(error.message, hint=error.hint, error_code=error.code, **fields)


def configure_logging(level: str = "info", *, journal: bool | None = None) -> None:
    """Send what is logged at ``level`` or above to journald, or as lines to stderr.

    Where to is decided by JOURNAL_STREAM unless ``journal`` says it. May be called again, for instance
    after a reload with another level. Raise ``ValueError`` for an unknown level.
    """
    if level.lower() not in _PRIORITIES:
        raise ValueError(f"unknown log level {level!r}; known: {', '.join(_PRIORITIES)}")
    send = _journal_sender() if (_under_journald() if journal is None else journal) else None
    structlog.configure(
        processors=[*_COMMON, *(_TO_STDERR if send is None else _TO_JOURNAL)],
        wrapper_class=structlog.make_filtering_bound_logger(level.lower()),
        logger_factory=(lambda *_: _Stderr()) if send is None else (lambda *_: _Journal(send)),
        cache_logger_on_first_use=False,  # a reload changes the level of loggers already in use
    )
    _listen_to_libraries()


def log_uncaught() -> None:
    """Send through the same pipeline what nobody caught, in any thread, and Python's own warnings.

    For the program's main only. The watchdog ends us by SIGABRT: faulthandler then tells where every
    thread was; it prints places, no values, so nothing needs redacting.
    """
    sys.excepthook = _on_uncaught
    threading.excepthook = lambda args: _report_uncaught("A thread crashed", args.exc_value)
    sys.unraisablehook = lambda args: _report_uncaught("An error escaped a clean-up", args.exc_value)
    logging.captureWarnings(True)
    with suppress(OSError, ValueError, RuntimeError):  # stderr may be no file
        faulthandler.enable()


# Secrets

_secrets: set[str] = set()
_registering: Final = threading.Lock()
_secret_pattern: re.Pattern[str] | None = None
_SECRET_KEY: Final = re.compile(r"passw|passphrase|secret|token|credential|api_?key|private_?key", re.IGNORECASE)
_OURS: Final = {"level", "timestamp", "message_id"}
"""Never redacted: chosen by us, and a password that happens to be "info" must not break the pipeline."""

_SHORT: Final = 6


def redact(value: str) -> None:
    """From now on, write ``***`` wherever this secret would appear, also quoted or percent-encoded.

    One of fewer than six characters is replaced only where it stands as a word: taking every "db" out of
    the log would say more than it hides. What was registered is never forgotten: an old password may still
    turn up in a late traceback.
    """
    global _secret_pattern  # noqa: PLW0603  (the pipeline is one per process)
    if not value.strip():
        return
    # Of two threads at once, the slower one's pattern would lack the other one's secret for good.
    with _registering:
        if value in _secrets:
            return
        _secrets.update(
            {value, quote(value, safe="", errors="surrogateescape"), repr(value)[1:-1], json.dumps(value)[1:-1]}
        )
        longest_first = sorted(_secrets, key=len, reverse=True)
        _secret_pattern = re.compile("|".join(map(_secret_regex, longest_first)))


def redacted(text: str) -> str:
    """Return the text with every registered secret replaced; for what is written elsewhere than here."""
    return text if _secret_pattern is None else _secret_pattern.sub(MASK, text)


def _secret_regex(secret: str) -> str:
    escaped = re.escape(secret)
    return escaped if len(secret) >= _SHORT else rf"(?<!\w){escaped}(?!\w)"


def _redact_event(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {key: value if key in _OURS else _redact_field(key, value) for key, value in event.items()}


def _redact_field(key: object, value: object) -> object:
    if value is None or isinstance(value, bool):
        return value
    return MASK if _SECRET_KEY.search(str(key)) else _redact_value(value)


def _redact_value(value: object) -> object:
    if value is None or isinstance(value, bool | int | float | datetime):
        return value
    if isinstance(value, Mapping):
        return {redacted(str(key)): _redact_field(key, item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redact_value(item) for item in value]
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    return redacted(str(value))


# Text

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""What would command a terminal, make journalctl say "[blob data]", or not encode as UTF-8."""


def _text(value: object) -> str:
    """Return a value as one printable string."""
    match value:
        case bool():
            text = str(value).lower()
        case datetime():
            text = value.isoformat()
        case dict() | list():
            text = json.dumps(value, default=str, ensure_ascii=False)
        case _:
            text = str(value)
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


# To the journal

_PRIORITIES: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
_CODE: Final = {"pathname": "CODE_FILE", "lineno": "CODE_LINE", "func_name": "CODE_FUNC"}
"""cysystemd adds a second value to each, of its own C source; journald takes both, and matches either."""

_CALLER = CallsiteParameterAdder(
    (CallsiteParameter.PATHNAME, CallsiteParameter.LINENO, CallsiteParameter.FUNC_NAME),
    additional_ignores=["logging", __name__],
)


def journal_field(key: str) -> str:
    """Return the name that journald accepts for this key; empty when nothing is left of it.

    journald drops a field, or the entry, when its name has another character than A-Z, 0-9 and _, begins
    with a digit or an underscore, or is longer than 64.
    """
    return re.sub(r"[^A-Z0-9_]", "_", key.upper()).lstrip("_0123456789")[:64]


def _journal_fields(_logger: WrappedLogger, _method: str, event: EventDict) -> dict[str, str]:
    level = event.pop("level", "info")
    message = _text(event.pop("event", ""))
    fields = {
        _CODE.get(key) or journal_field(key): _text(value)
        for key, value in event.items()
        if value is not None and value != ""
    }
    if "HINT" in fields:  # so that plain `journalctl -u arcbackupd` says it too
        message = f"{message}\n{fields['HINT']}"
    fields |= {"MESSAGE": message, "PRIORITY": str(_PRIORITIES[level]), "SYSLOG_IDENTIFIER": IDENTIFIER}
    fields.pop("", None)
    return fields


class _Journal:
    """What structlog calls with the finished fields: one method per level, all the same."""

    def __init__(self, send: Send) -> None:
        self._send = send

    def msg(self, **fields: str) -> None:
        try:
            self._send(**fields)
        except (OSError, ValueError):  # losing an entry must never fail a backup
            _Stderr().msg(fields["MESSAGE"])

    debug = info = warning = error = critical = msg


def _under_journald() -> bool:
    """Return whether our stderr is the journal's: then it takes native entries from us too."""
    try:
        stat = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{stat.st_dev}:{stat.st_ino}"


def _journal_sender() -> Send | None:
    try:
        from cysystemd.journal import send
    except ImportError:  # no wheel for this platform: lines on stderr reach the journal too, without fields
        return None
    return cast("Send", send)


# To a terminal

_COLOURS: Final = {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "1;31"}
_INDENT: Final = "\n" + " " * 29
_HIDDEN: Final = {"event", "level", "timestamp", "hint", "exception", "message_id"}


def _line(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    colour = _wants_colour(sys.stderr)
    level = event["level"]
    pairs = [f"{key}={_quoted(value)}" for key, value in event.items() if key not in _HIDDEN and value != ""]
    blocks = [_text(event.get("event", "")), _text(event.get("hint") or ""), _text(event.get("exception", ""))]
    if pairs:
        blocks[0] += "  " + _paint(" ".join(pairs), "2", colour)
    body = "\n".join(filter(None, blocks)).replace("\n", _INDENT)
    return f"{_paint(event['timestamp'], '2', colour)} {_paint(f'{level:<8}', _COLOURS[level], colour)}{body}"


def _quoted(value: object) -> str:
    text = _text(value)
    return text if re.fullmatch(r"[^\s\"'=]+", text) else json.dumps(text, ensure_ascii=False)


def _paint(text: str, code: str, colour: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if colour else text


def _wants_colour(stream: TextIO) -> bool:
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and stream.isatty()


class _Stderr:
    """What structlog calls with a finished line. A terminal that has gone away stops nothing."""

    def msg(self, line: str) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.write(line + "\n")  # one write, so that lines of threads don't mix
            sys.stderr.flush()

    debug = info = warning = error = critical = msg


# From libraries, and from nobody


class _FromLibraries(logging.Handler):
    """Brings what libraries say with the standard ``logging`` into our pipeline, from WARNING up."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            event = record.getMessage()
        except (TypeError, ValueError, KeyError):  # arguments that don't fit the format
            event = str(record.msg)
        level = min(record.levelno // 10 * 10, logging.CRITICAL)
        get_logger().log(level, event, logger=record.name, exc_info=record.exc_info or None)


def _listen_to_libraries() -> None:
    root = logging.getLogger()
    if not any(isinstance(handler, _FromLibraries) for handler in root.handlers):
        root.addHandler(_FromLibraries())
    root.setLevel(logging.WARNING)
    # Whatever the level, each of its messages begins with the whole command line.
    logging.getLogger("sh").setLevel(logging.CRITICAL + 1)


def _on_uncaught(kind: type[BaseException], error: BaseException, _trace: object) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        _report_uncaught("Crashed", error)


def _report_uncaught(event: str, error: BaseException | None) -> None:
    get_logger().critical(event, exc_info=error)


_COMMON: Final[tuple[Processor, ...]] = (
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    format_exc_info,
)
_TO_JOURNAL: Final[tuple[Any, ...]] = (_CALLER, _redact_event, _journal_fields)
_TO_STDERR: Final[tuple[Any, ...]] = (TimeStamper("%Y-%m-%dT%H:%M:%SZ", utc=True), _redact_event, _line)
