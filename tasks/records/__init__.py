"""Names of batches, sessions, and days, and the small JSON records that stages leave for each other."""
