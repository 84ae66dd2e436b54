"""What arcbackupd does: events out, outcome back."""
