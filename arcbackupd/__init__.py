"""arcbackupd: proved, self-describing backups of a self-hosted Arcsecond observatory's database."""

__version__ = "0.1.0"
