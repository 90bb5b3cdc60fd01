"""Queries: the archive as SQL views, bars of a symbol, and what it holds."""
