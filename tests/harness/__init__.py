"""The real test stack: engines, images, an Arcsecond-like stack, a systemd host, embedded servers."""
