"""One request over HTTP, bounded in everything: time, redirects, what is read of the answer.

urllib, which the standard library has: proxies come from the environment as usual, certificates are verified.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from datetime import timedelta
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from arcbackupd import __version__
from arcbackupd.alarms import AlarmError, AlarmSettings
from arcbackupd.log import redact
from arcbackupd.settings import OR_CREDENTIAL, AbsolutePath, Duration

_ANSWER_LIMIT = 64 << 10
_BLOCK = 8 << 10
_PASSING = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
_PRINTABLE = re.compile(r"[!-~]+")


def check_url(value: str) -> str:
    """A URL that something can be sent to. Raise ValueError, which doesn't tell it: it is a secret."""
    try:
        url = urlsplit(value)
        sound = bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        sound = False
    if not sound or not _PRINTABLE.fullmatch(value) or url.scheme not in ("http", "https"):
        raise ValueError('must be a URL such as "https://hc-ping.com/…"')
    if url.username is not None:
        raise ValueError("a user and a password don't belong in it: set headers.Authorization")
    return value


def _secret_url(value: SecretStr) -> SecretStr:
    check_url(value.get_secret_value())
    return value


class HttpSettings(AlarmSettings):
    """``url``, or ``url_file``, a file that holds it: for most services whoever knows it may send there.

    ``timeout``: for the whole of one try. ``ca_file``: certificates, as PEM, that are trusted besides the system's.
    """

    url: Annotated[SecretStr, AfterValidator(_secret_url)] | None = None
    url_file: AbsolutePath | None = None
    timeout: Annotated[Duration, Field(le=timedelta(minutes=1))] = timedelta(seconds=10)
    ca_file: AbsolutePath | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.url is None) == (self.url_file is None):
            raise ValueError(f"give either url or url_file{OR_CREDENTIAL}")
        return self

    def address(self) -> str:
        """The URL, read now where it is in a file. Raise AlarmError."""
        if self.url is not None:
            return self.url.get_secret_value()
        return secret_from(self.url_file, "url_file", check_url)


def _not_empty(value: str) -> str:
    if not value:
        raise ValueError("it is empty")
    return value


def secret_from(path: Path | None, key: str, check: Callable[[str], str] = _not_empty) -> str:
    """A secret from a file, without what is around it. Raise AlarmError, which doesn't tell it."""
    assert path is not None
    try:
        secret = check(path.read_text("utf-8").strip())
    except OSError as error:
        raise _unusable(path, key, error.strerror or "it can't be read") from None
    except UnicodeError:  # its text would tell a part of it
        raise _unusable(path, key, "it is no text") from None
    except ValueError as error:
        raise _unusable(path, key, str(error)) from None
    redact(secret)
    return secret


def _unusable(path: Path, key: str, why: str) -> AlarmError:
    hint = "Put nothing but the secret into it, and let the daemon read it."
    return AlarmError("alarm-failed", f"{key} can't be used: {path}: {why}.", hint=hint)


def post(settings: HttpSettings, url: str, body: bytes, headers: Mapping[str, str]) -> None:
    """Send it once. Raise AlarmError, which tells the host of the URL and nothing else of it."""
    host = urlsplit(url).hostname or ""
    agent = {"User-Agent": f"arcbackupd/{__version__}", **headers}
    request = urllib.request.Request(url, data=body, headers=agent, method="POST")  # noqa: S310  # see check_url
    seconds = settings.timeout.total_seconds()
    with _Limit(seconds) as limit:
        try:
            with _opener(settings.ca_file, limit).open(request, timeout=seconds) as answer:
                if limit.passed:  # what was cut off by it may look whole: headers may end anywhere
                    raise TimeoutError
                _read_through(answer)
        except urllib.error.HTTPError as error:
            error.close()
            raise _refused(host, error.code) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _unreachable(host, error, limit) from None


def _read_through(answer: Any) -> None:
    """Take the answer, so that the server sees its end; more than a little of it isn't waited for.

    Its status has said that it was delivered: what comes after that, or doesn't, is no reason to deliver it again.
    """
    read = 0
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
        while read < _ANSWER_LIMIT and (block := answer.read(_BLOCK)):
            read += len(block)


class _Limit:
    """Ends a request when its time is over: a socket's own limit begins anew with every address and every byte."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.passed = False
        self._end_at = time.monotonic() + seconds
        self._changing = threading.Lock()
        self._connected: socket.socket | None = None
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def __enter__(self) -> _Limit:
        self._timer.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._timer.cancel()
        with self._changing:
            if self._connected is not None:
                self._connected.close()
                self._connected = None

    def connect(self, address: tuple[str, int], *_others: object) -> socket.socket:
        """A connection to a name and port, which ends with the limit whatever is done over it. Raise OSError."""
        failure: OSError = TimeoutError()
        for numeric in _resolved(address, self._left()):
            try:
                connected = socket.create_connection(numeric, self._left())
            except OSError as error:
                failure = error
            else:
                self._watch(connected)
                return connected
        raise failure

    def _left(self) -> float:
        left = self._end_at - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def _watch(self, connected: socket.socket) -> None:
        """By a descriptor of its own: TLS takes the other one over, and in its handshake nobody has it."""
        with self._changing:
            self._connected = connected.dup()
        if self.passed:
            self._end()

    def _end(self) -> None:
        self.passed = True
        with self._changing, contextlib.suppress(OSError):
            if self._connected is not None:
                self._connected.shutdown(socket.SHUT_RDWR)


def _resolved(address: tuple[str, int], seconds: float) -> list[tuple[str, int]]:
    """The numeric addresses of a name. Raise OSError, TimeoutError when that takes longer.

    In a thread that is left alone then: nothing ends the resolver before its own limits, of half a minute and more.
    """
    found: Future[list[tuple[str, int]]] = Future()

    def resolve() -> None:
        try:
            rows = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
            found.set_result([(str(row[4][0]), int(row[4][1])) for row in rows])
        except Exception as error:  # noqa: BLE001 - whoever waits for it tells it
            found.set_exception(error)

    threading.Thread(target=resolve, name="resolve", daemon=True).start()
    return found.result(seconds)


def _opener(ca_file: Path | None, limit: _Limit) -> urllib.request.OpenerDirector:
    context = ssl.create_default_context()
    if ca_file is not None:
        _trust(context, ca_file)
    return urllib.request.build_opener(_NoRedirects(), _Http(limit), _Https(limit, context))


def _trust(context: ssl.SSLContext, ca_file: Path) -> None:
    try:
        context.load_verify_locations(ca_file)
    except OSError as error:  # SSLError too
        why = "it holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
        hint = "It must hold certificates as PEM, and the daemon must be able to read it."
        raise AlarmError("alarm-failed", f"ca_file can't be used: {ca_file}: {why}.", hint=hint) from None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect is refused: what would be sent again is a secret and a report, and to somebody else."""

    def redirect_request(self, *_request: object) -> None:
        return None


class _Http(urllib.request.HTTPHandler):
    def __init__(self, limit: _Limit) -> None:
        super().__init__()
        self._limit = limit

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(_Connection, self._limit), req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, limit: _Limit, context: ssl.SSLContext) -> None:
        super().__init__(context=context)
        self._limit, self._tls = limit, context

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(_TlsConnection, self._limit), req, context=self._tls)


class _Connection(http.client.HTTPConnection):
    def __init__(self, limit: _Limit, host: str, **options: Any) -> None:
        super().__init__(host, **options)
        self._create_connection = limit.connect


class _TlsConnection(http.client.HTTPSConnection):
    def __init__(self, limit: _Limit, host: str, **options: Any) -> None:
        super().__init__(host, **options)
        self._create_connection = limit.connect


def _refused(host: str, status: int) -> AlarmError:
    if status in range(300, 400):
        hint = "Put the address that it leads to into the configuration."
        return AlarmError("alarm-refused", f"{host} sends to another address ({status}).", hint=hint)
    phrase = next((f" {known.phrase}" for known in HTTPStatus if known == status), "")
    passing = status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _PASSING
    hint = (
        "Look whether the service works." if passing else "Look whether the URL is right, and what else it wants."
    )
    return AlarmError("alarm-refused", f"{host} answered {status}{phrase}.", hint=hint, passing=passing)


def _unreachable(host: str, error: Exception, limit: _Limit) -> AlarmError:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if limit.passed or isinstance(cause, TimeoutError):
        why = f"no answer within {limit.seconds:g} s"
    elif isinstance(cause, ssl.SSLCertVerificationError):
        why = f"its certificate isn't trusted: {cause.verify_message}"
    elif isinstance(cause, OSError):  # a proxy that refuses has words alone
        why = cause.strerror or str(cause) or type(cause).__name__
    else:
        why = type(cause).__name__
    hint = (
        "Look whether the network leads there. The service's sandbox lets it out only with a drop-in:"
        " alarms.conf.example in /etc/systemd/system/arcbackupd.service.d."
    )
    return AlarmError("alarm-unreachable", f"{host} can't be reached: {why}.", hint=hint, passing=True)
