"""The control protocol: Varlink on a Unix socket. Here stands what both halves must agree on."""

INTERFACE = "io.arcsecond.Backups"
"""Name of the one interface, and what its methods and errors begin with."""

DEFAULT_SOCKET = "/run/arcbackupd/control.sock"
"""Where the daemon listens, and the client dials, when nobody says otherwise."""
