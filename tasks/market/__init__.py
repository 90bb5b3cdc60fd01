"""Market: which hours an exchange trades on which day."""
