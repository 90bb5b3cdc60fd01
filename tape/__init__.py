"""For people: the command `tape`."""
