"""Independent implementations in float64, straight from the papers, for what torch.optim does not have.

Frozen: they share no code with gradstep and are never changed together with it.
"""

from collections.abc import Sequence

import numpy as np


def lion(
    p: np.ndarray,
    gradients: Sequence[np.ndarray],
    lr: float = 1e-4,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> np.ndarray:
    """Chen et al., arXiv:2302.06675, Algorithm 2, with η_t the learning rate and λ the decoupled decay."""
    theta, m = np.array(p, dtype=np.float64), np.zeros_like(p, dtype=np.float64)
    beta1, beta2 = betas
    for g in gradients:
        g = np.negative(g) if maximize else np.asarray(g)
        c = beta1 * m + (1.0 - beta1) * g
        theta = theta - lr * (np.sign(c) + weight_decay * theta)
        m = beta2 * m + (1.0 - beta2) * g
    return theta
