"""State dictionaries: loaded, matched to parameters, converted."""
