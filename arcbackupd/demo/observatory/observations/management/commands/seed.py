"""`manage.py seed`: fill the observatory with rows, by the database's own generate_series."""

from argparse import ArgumentParser

from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import connection, transaction


class Command(BaseCommand):
    """Run seed.sql with the asked number of rows."""

    help = "Insert targets, observations and photometry."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the number of rows of photometry."""
        parser.add_argument("--rows", type=int, default=300_000)

    def handle(self, *_args: object, rows: int, **_options: object) -> None:
        """Insert all of it in one transaction."""
        sql = (settings.BASE_DIR / "seed.sql").read_text(encoding="utf-8")
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT set_config('seed.rows', %s, true)", [str(rows)])
            cursor.execute(sql)
        self.stdout.write(f"inserted {rows} rows of photometry")
