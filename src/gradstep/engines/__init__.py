"""Who executes a rule: NumPy (the reference), torch operations, ``torch.compile``, or the fused CPU kernel."""
