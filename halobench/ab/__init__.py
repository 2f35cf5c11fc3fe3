"""Two revisions of a repository measured in one job, in turns, with a null control and a confirmation."""
