"""Restore and rollback: a plan of steps, a journal of where it stands, and what finishes or undoes it.

journal.py   what a restore must know to be finished or undone by another process
server.py    the databases of the server
services.py  the services that use the database
checks.py    what stands in the way, found before anything is touched
loading.py   a dump into a database
steps.py     what is done, how it is shown, how it is undone
run.py       the plans, and their way from the first step to the end, or back
replaced.py  the databases that restores replaced

docs/architecture.md, "The way of a restore", follows it through the house.
"""
