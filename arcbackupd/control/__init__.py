"""The control protocol: Varlink on a Unix socket."""
