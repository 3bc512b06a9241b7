"""Kernels for NVIDIA cards: the lines that the fused CPU kernel traces, as PTX. Nothing here runs them yet."""
