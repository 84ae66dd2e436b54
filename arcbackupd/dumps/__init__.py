"""Dumps: names, file format, manifest, proof, catalogue, compatibility, retention."""
