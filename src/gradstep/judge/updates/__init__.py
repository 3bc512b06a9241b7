"""Which rule updated which parameter: a training run watched, each update held against what its optimizer promises."""
