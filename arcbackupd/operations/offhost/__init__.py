"""Copies off this host: what should be where, how it gets there, what is there, and how it comes back.

docs/architecture.md, "The way off the host", follows it through the house.
"""
