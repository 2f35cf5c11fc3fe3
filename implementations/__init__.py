"""Halo attention backends, one module each: this folder is the registry."""
