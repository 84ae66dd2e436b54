"""From a request to its reply: which row of the table, whether the peer may, what the handler says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from pydantic import ValidationError

from arcbackupd import __version__
from arcbackupd.control import INTERFACE, messages
from arcbackupd.control.access import AccessPolicy, Gatekeeper, Peer
from arcbackupd.control.interface import (
    METHODS,
    SERVICE_INTERFACE,
    BackupsService,
    Call,
    Handler,
    Method,
    Parameters,
    PeerGone,
    Reply,
    description,
)
from arcbackupd.control.messages import Request, VarlinkFault
from arcbackupd.errors import ArcbackupdError, OperationFailed

Write = Callable[[bytes], Awaitable[None]]


class Log(Protocol):
    """Where the control socket tells what the journal should know."""

    def __call__(self, message: str, *, hint: str = "", error: BaseException | None = None) -> None:
        """``message`` is a sentence, ``hint`` what to do; ``error`` comes with its traceback."""


class Dispatcher:
    """Answers requests; knows nothing of sockets."""

    def __init__(self, service: BackupsService, policy: AccessPolicy, log: Log) -> None:
        self._service = service
        self.gate = Gatekeeper(policy)
        self._log = log

    async def answer(self, request: Request, peer: Peer, write: Write) -> bytes:
        """Return the (last) reply. Intermediate ones go to ``write``. Raise PeerGone when that raises it."""
        try:
            return messages.reply(await self._reply_to(request, peer, write))
        except (VarlinkFault, ArcbackupdError) as error:
            return messages.error_reply(error)
        except PeerGone:
            raise
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            return messages.error_reply(_interrupted())  # not we are cancelled, but what the handler waited for
        except (Exception, SystemExit) as error:  # noqa: BLE001  (a fault in a handler, or a plugin, ends one call only)
            self._log(f"The call {messages.shown(request.method)} failed unexpectedly.", error=error)
            return messages.error_reply(_internal())

    async def _reply_to(self, request: Request, peer: Peer, write: Write) -> Reply:
        interface, _, name = request.method.rpartition(".")
        if request.upgrade or (request.more and request.oneway):
            raise VarlinkFault("InvalidParameter", parameter="upgrade" if request.upgrade else "oneway")
        if interface == SERVICE_INTERFACE:
            return _describe(name, request.parameters or {})
        if interface != INTERFACE:
            raise VarlinkFault("InterfaceNotFound", interface=interface)
        if name not in METHODS:
            raise VarlinkFault("MethodNotFound", method=request.method)
        return await self._call(METHODS[name], request, peer, write)

    async def _call(self, method: Method, request: Request, peer: Peer, write: Write) -> Reply:
        peer = await self.gate.admit(peer, method.access, method.name)
        parameters = _validated(method.parameters, request.parameters or {})
        handler: Handler | None = getattr(self._service, method.handler, None)
        if handler is None:
            raise VarlinkFault("MethodNotImplemented", method=request.method)

        async def stream(reply: Reply) -> None:
            await write(messages.reply(reply, continues=True))

        return await handler(Call(parameters, peer, bool(request.more) and method.streams, stream))


def _describe(name: str, parameters: dict[str, Any]) -> Reply:
    if name == "GetInfo":
        return {
            "vendor": "Arcsecond",
            "product": "arcbackupd",
            "version": __version__,
            "url": "https://www.arcsecond.io",
            "interfaces": [SERVICE_INTERFACE, INTERFACE],
        }
    if name != "GetInterfaceDescription":
        raise VarlinkFault("MethodNotFound", method=f"{SERVICE_INTERFACE}.{name}")
    interface = parameters.get("interface")
    if not isinstance(interface, str):
        raise VarlinkFault("InvalidParameter", parameter="interface")
    text = description(interface) if interface in (SERVICE_INTERFACE, INTERFACE) else None
    if text is None:
        raise VarlinkFault("InterfaceNotFound", interface=interface)
    return {"description": text}


def _validated(model: type[Parameters], parameters: dict[str, Any]) -> Parameters:
    try:
        return model.model_validate(parameters)
    except ValidationError as error:
        raise VarlinkFault("InvalidParameter", parameter=messages.where(error)) from error


def _internal() -> OperationFailed:
    return OperationFailed(
        "internal",
        "The daemon met an error that it did not expect; it goes on running.",
        hint="The journal has the details: journalctl -u arcbackupd -p err. Please report them.",
    )


def _interrupted() -> OperationFailed:
    return OperationFailed(
        "interrupted",
        "The operation was stopped before it had finished.",
        hint="See what stopped it: journalctl -u arcbackupd. If the daemon was restarted, try again.",
    )
