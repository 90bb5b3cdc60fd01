"""The data folder: its layout, atomic writes, and locks."""
