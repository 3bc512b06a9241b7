"""Load state dictionaries, match them to parameters, and convert them."""
