"""`arcbackupd setup`: from a host with the units installed to one whose first backup is taken.

Looking (`host`, `installs`) comes first, then asking (`dialogue`). From both follows a plan (`plan`): a list of
steps (`steps`, `first_backup`) that describe themselves, so that `--dry-run` prints the very plan that would be
carried out. Where all is as it should be, no step of it changes anything.
"""
