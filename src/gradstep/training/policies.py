"""Which parameters weight decay acts on: the named policies, each one small function."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gradstep.training.parameters import Named

Verdict = tuple[bool, str]
"""Whether a parameter decays, and why."""


def no_decay_norm_bias(p: Named) -> Verdict:
    """Everything decays but norms, biases and what has fewer than two dimensions.

    A norm is known by the type of its module and by dimension: a gain of two dimensions is still a gain, and a vector
    in a module nobody knows is still a vector.
    """
    if p.in_norm:
        return False, "of a norm"
    if p.is_bias:
        return False, "a bias"
    if p.tensor.ndim < 2:
        return False, f"{p.tensor.ndim} dimension{'' if p.tensor.ndim == 1 else 's'}"
    return True, f"{p.tensor.ndim} dimensions"


def by_dimension(p: Named) -> Verdict:
    """What has two or more dimensions decays; modules and names do not matter (nanoGPT's rule)."""
    return p.tensor.ndim >= 2, f"{p.tensor.ndim} dimension{'' if p.tensor.ndim == 1 else 's'}"


def everything(p: Named) -> Verdict:
    """Every parameter decays (torch.optim given ``model.parameters()``)."""
    return True, "policy 'all'"


POLICIES: Mapping[str, Callable[[Named], Verdict]] = {
    "no_decay_norm_bias": no_decay_norm_bias,
    "ndim>=2": by_dimension,
    "all": everything,
}
"""Every policy by its name."""
