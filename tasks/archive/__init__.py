"""The archive as a library: its schema, file encodings, quarantine and day files."""
