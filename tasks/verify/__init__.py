"""Verify: the laws of conservation, recomputed from the files alone."""
