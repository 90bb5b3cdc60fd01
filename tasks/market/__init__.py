"""The market: when an exchange trades."""
