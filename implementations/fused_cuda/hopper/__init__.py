"""Kernels for Hopper, one for each pass: what they serve, their sources, and how they are called."""
