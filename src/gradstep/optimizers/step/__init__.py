"""The memory that a step reads and writes: tables of addresses, and the checks of gradients and state before a step."""
