"""What a results file holds, and how it is read."""
