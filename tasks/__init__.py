"""The stages of the line from socket to archive (folders), and the words they share (files)."""
