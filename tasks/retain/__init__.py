"""Retain: removes files that have a second copy once they are old enough or the disk needs the space."""
