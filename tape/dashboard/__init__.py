"""The web page of `tape dashboard`: a running session, or any session or day of the archive."""
