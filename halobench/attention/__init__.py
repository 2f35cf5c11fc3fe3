"""What is computed, the truth, and who computes it."""
