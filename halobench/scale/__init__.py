"""Training steps on 1, 2, ... ranks in one run: efficiency, what communication costs, and what it could cost."""
