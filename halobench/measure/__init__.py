"""The instruments: device time, peak memory, energy, and the engine that runs them case by case."""
