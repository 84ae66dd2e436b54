"""The checks as the daemon goes through them: in a thread, each finding told as it comes."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from functools import partial
from pathlib import Path

from arcbackupd.checks import examine, worst
from arcbackupd.checks.all import checks_of
from arcbackupd.checks.subject import Living, Subject
from arcbackupd.control.interface import Call, NoParameters, Reply
from arcbackupd.errors import OperationFailed
from arcbackupd.operations.events import Step, as_dict
from arcbackupd.operations.offhost.offhost import OffHost
from arcbackupd.settings import Settings
from arcbackupd.stack import open_engine

_DESTINATION_SECONDS = 60.0


async def diagnose(
    config: Path, settings: Settings, off_host: OffHost, living: Living, call: Call[NoParameters]
) -> Reply:
    """Go through the checks for these settings; stream each finding, return all of them and the whole's state."""
    loop = asyncio.get_running_loop()
    probes = {name: partial(_probe, off_host, name, loop) for name in settings.destinations}
    subject = Subject(config, settings, open_engine(settings.engine), probes, living)
    findings = examine(checks_of(settings), subject)
    told = []
    while (finding := await asyncio.to_thread(next, findings, None)) is not None:
        told.append(finding)
        step = Step(finding.name, f"{finding.title}: {finding.state}")
        await call.send({"event": as_dict(step), "finding": asdict(finding)})
    return {"state": str(worst(told)), "findings": [asdict(finding) for finding in told]}


def _probe(off_host: OffHost, name: str, loop: asyncio.AbstractEventLoop) -> str:
    """Where a destination is, once it has been checked by its own queue, which belongs to the event loop."""
    asking = asyncio.run_coroutine_threadsafe(_checked(off_host, name), loop)
    try:
        return asking.result(_DESTINATION_SECONDS)
    except TimeoutError:
        asking.cancel()
        hint = "`journalctl -u arcbackupd` may tell more; dumps on this host are none the worse for it."
        message = f"{name} didn't answer within {_DESTINATION_SECONDS:.0f} s."
        raise OperationFailed("destination-slow", message, hint=hint) from None


async def _checked(off_host: OffHost, name: str) -> str:
    (place,) = off_host.find(name)
    await asyncio.shield(off_host.check(place).result)
    return place.destination.location
