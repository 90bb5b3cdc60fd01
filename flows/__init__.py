"""Prefect flows, and the settings they start from."""
