"""Export: the archive becomes a tape again."""
