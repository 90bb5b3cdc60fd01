"""Merge: combines the batches of a day into one file, sorted by symbol and time."""
