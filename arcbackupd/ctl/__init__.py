"""arcbackupctl, the thin client."""
