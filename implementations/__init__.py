"""Halo attention backends, a module or package each; this folder is the package ``halobench.implementations``."""
