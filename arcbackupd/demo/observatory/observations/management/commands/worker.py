"""`manage.py worker`: a process that keeps a connection and writes, as Arcsecond's workers do."""

import time
from argparse import ArgumentParser

from django.core.management.base import BaseCommand
from django.db import OperationalError, connection
from django.utils import timezone
from targets.models import Target

from observations.models import Observation


class Command(BaseCommand):
    """Note one observation per interval until stopped, over one lasting connection."""

    help = "Write an observation each second."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the pause between two rows."""
        parser.add_argument("--interval", type=float, default=1.0)

    def handle(self, *_args: object, interval: float, **_options: object) -> None:
        """Write until killed; a lost connection is made again."""
        while True:
            try:
                self.observe()
            except OperationalError as error:
                self.stderr.write(f"database not reachable: {error}")
                connection.close()
            time.sleep(interval)

    def observe(self) -> None:
        """Insert one observation of the worker's own target."""
        target, _ = Target.objects.get_or_create(
            name="worker", defaults={"right_ascension": 0.0, "declination": 90.0}
        )
        Observation.objects.create(target=target, started_at=timezone.now(), exposure_seconds=1, band="V")
