"""How and where a value is stored."""
