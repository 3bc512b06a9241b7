"""A rule as an expression graph: traced from its Python functions, edited, computed in float64."""
