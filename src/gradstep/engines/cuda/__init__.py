"""Kernels for NVIDIA cards: the lines that the fused CPU kernel traces, as PTX. They have not run on a device yet."""

THREADS = 256
"""Threads of a block, a multiple of a warp's: eight warps, of which each takes a block of 8-bit state."""
