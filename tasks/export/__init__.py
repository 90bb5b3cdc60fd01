"""Export: writes the archive back as a tape."""
