"""The state of each parameter: its storage, creation, checks and summary."""
