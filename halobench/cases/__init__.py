"""What one row is about: its inputs, its truth, its cost."""
