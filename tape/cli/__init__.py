"""The commands of `tape`, one file for each group."""
