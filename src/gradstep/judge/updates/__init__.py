"""Watch a training run, and compare each parameter's updates with the rule that its optimizer promises."""
