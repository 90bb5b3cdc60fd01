"""For people: where the command `tape` begins."""
