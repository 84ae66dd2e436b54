"""One HTML page on the state of the backups: no scripts, nothing from elsewhere, all text escaped."""
