"""The engines that execute a rule: NumPy (the reference), torch operations, ``torch.compile``, the fused CPU kernel."""

from gradstep.engines.listing import list_kernel

__all__ = ["list_kernel"]
