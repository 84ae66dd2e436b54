"""The manual pages: the texts in docs/man, with what the programs themselves say of options and settings."""
