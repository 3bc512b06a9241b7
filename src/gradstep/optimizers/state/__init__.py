"""The state of each parameter: how it is stored, created, checked and summed up."""
