"""The installation that is looked after: the engine that runs its containers, and its services."""

from arcbackupd.settings import Engine as EngineSettings
from arcbackupd.stack.containers import ContainerEngine
from arcbackupd.stack.engine import ContainerRun, Engine, HealthCheck, ServiceState
from arcbackupd.stack.local import LocalEngine

__all__ = ["ContainerRun", "Engine", "HealthCheck", "ServiceState", "open_engine"]


def open_engine(settings: EngineSettings) -> Engine:
    """The engine that the configuration names."""
    return LocalEngine(settings) if settings.kind == "local" else ContainerEngine(settings)
