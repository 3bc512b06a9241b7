"""State outside the memory in which it is updated: in files, or in the host's memory for a GPU."""
