"""Training: one step, and whole runs of ``python -m halobench.train``."""
