"""Batch normalisation and what follows it, in as few passes over the map as it takes."""
