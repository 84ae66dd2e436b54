"""Hostile input, found by coverage and kept: targets, their corpus, and what runs them (see CONTRIBUTING.md)."""
