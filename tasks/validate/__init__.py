"""Validate: splits a sealed batch into valid rows and quarantined rows with reasons."""
