"""The engines that execute a rule: NumPy (the reference), torch operations, ``torch.compile``, the fused CPU kernel."""
