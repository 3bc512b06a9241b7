"""State outside of the memory in which it is computed: in files, or in the host's memory for a GPU."""
