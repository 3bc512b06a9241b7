"""What is known of each parameter of a model: names and module, its layer, and whether weight decay acts on it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gradstep.storage.policy import is_embedding_class

_NORM = re.compile(r"Norm(\d[dD])?$")
_BIAS = re.compile(r"^bias(_|$)|_bias$")


@final
@dataclass(frozen=True, eq=False)
class Named:
    """One parameter of a model with all its names; tied parameters are one.

    Attributes:
        tensor: the parameter.
        names: all its names in the model's order; the first one is what it is called.
        owners: the modules that hold it, in the order of the names.
    """

    tensor: Tensor
    names: tuple[str, ...]
    owners: tuple[nn.Module, ...]

    @property
    def name(self) -> str:
        """Its first name."""
        return self.names[0]

    @property
    def in_norm(self) -> bool:
        """Whether a normalisation layer holds it.

        The class of such a layer, or a class it inherits from, has a name that ends in ``Norm``, ``Norm1d``, ``Norm2d``
        or ``Norm3d``. All of torch's have, and so do the RMSNorms that models bring along (``LlamaRMSNorm``).
        """
        return any(_NORM.search(cls.__name__) for owner in self.owners for cls in type(owner).__mro__)

    @property
    def in_embedding(self) -> bool:
        """Whether an embedding holds it: a class that is, or inherits from, one whose name ends in ``Embedding``
        or ``EmbeddingBag``.
        """
        return any(is_embedding_class(type(owner)) for owner in self.owners)

    @property
    def is_bias(self) -> bool:
        """Whether it is called a bias: ``bias``, ``bias_k``, ``in_proj_bias``."""
        return any(_BIAS.search(name.rpartition(".")[2]) for name in self.names)


def parameters_of(model: nn.Module) -> list[Named]:
    """Every parameter of a model, tied ones once, in the order of ``model.named_parameters()``.

    Raises:
        ValueError: a lazy module's parameter, which has no shape before the first forward pass.
    """
    found: dict[Tensor, list[tuple[str, nn.Module]]] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for name, p in module.named_parameters(recurse=False, remove_duplicate=False):
            found.setdefault(p, []).append((f"{prefix}.{name}" if prefix else name, module))
    result = []
    for p, places in found.items():
        names, owners = zip(*places, strict=True)
        if is_lazy(p):
            raise ValueError(f"{names[0]} has no shape yet: run one forward pass before making parameter groups")
        result.append(Named(p, names, owners))
    return result


EMBEDDINGS = "embeddings"
HEAD = "head"
_LAYER = re.compile(r"^(?:.*?\.)??\d+(?=\.)")  # up to the first segment of the path that is a number


def levels_of(params: Sequence[Named]) -> list[str]:
    """The level of every parameter: ``"embeddings"``, a layer (``"h.0"``, ``"h.1"``, ...) or ``"head"``.

    A layer is what shares the path up to its first number: ``encoder.layer.3.attention.weight`` lies in
    ``encoder.layer.3``. Layers are in the model's order, also over several stacks. Of what lies in no layer,
    embeddings and whatever the model registers before its first layer lie at the bottom, the rest (a final norm, the
    head) at the top. A tied parameter lies where its first name says.

    Raises:
        ValueError: no parameter lies in a numbered layer.
    """
    found = [_LAYER.match(p.name) for p in params]
    if not any(found):
        raise ValueError(
            "layer_decay needs numbered layers, and no parameter's name has a number in its path "
            f"(the first is {params[0].name!r}): give learning rates by overrides={{pattern: {{'lr': ...}}}} instead"
        )
    first = next(i for i, match in enumerate(found) if match)
    return [
        match[0] if match else EMBEDDINGS if i < first or p.in_embedding else HEAD
        for i, (p, match) in enumerate(zip(params, found, strict=True))
    ]


def depths(levels: Sequence[str]) -> dict[str, int]:
    """How many levels lie above each: 0 for the topmost one there is.

    >>> depths(["embeddings", "h.0", "h.1", "head", "h.1"])
    {'embeddings': 3, 'h.0': 2, 'h.1': 1, 'head': 0}
    """
    inner = [level for level in dict.fromkeys(levels) if level not in (EMBEDDINGS, HEAD)]
    order = [level for level in (EMBEDDINGS, *inner, HEAD) if level in levels]
    return {level: len(order) - 1 - i for i, level in enumerate(order)}


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
