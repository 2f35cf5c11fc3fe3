"""What this machine is, how it keeps time, and what it can do."""
