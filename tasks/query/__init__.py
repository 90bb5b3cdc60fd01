"""Query: the archive as views that SQL can ask, bars of a symbol, and what there is."""
