"""The work: stages from socket to archive, and the rooms they share."""
