"""What is orchestrated: Prefect flows that read as prose, the settings they start from, and `tape`."""
