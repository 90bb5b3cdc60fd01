"""Merge: the batches of a day become one file, by symbol and time."""
