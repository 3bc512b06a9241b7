"""What tools/fuzz.py is made of: cases, the tensors and mutations in them, how a case is run, and what may differ."""
