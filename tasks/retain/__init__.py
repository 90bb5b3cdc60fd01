"""Retain: what is held twice is removed once it is old enough, or where the disk needs the room."""
