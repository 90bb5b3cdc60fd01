"""Validate: a sealed batch becomes valid rows, and quarantined rows with their reasons."""
