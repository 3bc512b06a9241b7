"""How a step gets at its parameters: tables of their memory, and what must hold of gradients and state."""
