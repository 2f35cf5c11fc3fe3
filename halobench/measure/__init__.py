"""Cases are run, in a worker process: time, peak memory and energy of each, and pytest's side of it."""
