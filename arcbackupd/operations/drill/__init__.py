"""Restore drills: a backup is loaded where it harms nothing, compared with what it says of itself, and noted."""
