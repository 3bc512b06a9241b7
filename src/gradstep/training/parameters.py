"""Facts about each parameter of a model: its names, modules and layer, and whether weight decay applies to it."""

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
class NamedParameter:
    """One parameter of a model with all its names; tied weights have several.

    Attributes:
        tensor: the parameter.
        names: all its names, in the model's order.
        owners: the modules that hold it, in the order of the names.
    """

    tensor: Tensor
    names: tuple[str, ...]
    owners: tuple[nn.Module, ...]

    @property
    def name(self) -> str:
        """The first of its names."""
        return self.names[0]

    @property
    def in_norm(self) -> bool:
        """Whether a normalisation layer holds it.

        A layer is one if the name of its class, or of a base class, ends in ``Norm``, ``Norm1d``, ``Norm2d`` or
        ``Norm3d``. This covers all of torch's and the RMSNorms of model libraries (``LlamaRMSNorm``).
        """
        return any(_NORM.search(cls.__name__) for owner in self.owners for cls in type(owner).__mro__)

    @property
    def in_embedding(self) -> bool:
        """Whether an embedding holds it: a module with a class or base class named ``…Embedding(Bag)``."""
        return any(is_embedding_class(type(owner)) for owner in self.owners)

    @property
    def is_bias(self) -> bool:
        """Whether its name is that of a bias: ``bias``, ``bias_k``, ``in_proj_bias``."""
        return any(_BIAS.search(name.rpartition(".")[2]) for name in self.names)


def name_model_parameters(model: nn.Module) -> list[NamedParameter]:
    """Return every parameter of a model, tied ones once, in the order of ``model.named_parameters()``.

    Raises:
        ValueError: a lazy module's parameter, which has no shape before the first forward pass.
    """
    owners_of: dict[Tensor, list[tuple[str, nn.Module]]] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for name, p in module.named_parameters(recurse=False, remove_duplicate=False):
            owners_of.setdefault(p, []).append((f"{prefix}.{name}" if prefix else name, module))
    result = []
    for p, pairs in owners_of.items():
        names, owners = zip(*pairs, strict=True)
        if is_lazy(p):
            raise ValueError(f"{names[0]} has no shape yet: run one forward pass before making parameter groups")
        result.append(NamedParameter(p, names, owners))
    return result


EMBEDDINGS = "embeddings"
HEAD = "head"
_LAYER = re.compile(r"^(?:.*?\.)??\d+(?=\.)")  # up to the first segment of the path that is a number


def levels_of(params: Sequence[NamedParameter]) -> list[str]:
    """Return the level of every parameter: ``"embeddings"``, a layer (``"h.0"``, ``"h.1"``, ...) or ``"head"``.

    Parameters with the same path up to its first number form a layer: ``encoder.layer.3.attention.weight`` belongs to
    ``encoder.layer.3``. Layers are in the model's order, also over several stacks. Of the parameters in no layer,
    embeddings and those registered before the first layer are at the bottom, the others (a final norm, the head) at the
    top. A tied parameter has the level of its first name.

    Raises:
        ValueError: no parameter is in a numbered layer.
    """
    layers = [_LAYER.match(p.name) for p in params]
    if not any(layers):
        raise ValueError(
            "layer_decay needs numbered layers, and no parameter's name has a number in its path "
            f"(the first is {params[0].name!r}): give learning rates by overrides={{pattern: {{'lr': ...}}}} instead"
        )
    first = next(i for i, match in enumerate(layers) if match)
    return [
        match[0] if match else EMBEDDINGS if i < first or p.in_embedding else HEAD
        for i, (p, match) in enumerate(zip(params, layers, strict=True))
    ]


def count_levels_above(levels: Sequence[str]) -> dict[str, int]:
    """Return how many levels lie above each level: 0 for the topmost.

    >>> count_levels_above(["embeddings", "h.0", "h.1", "head", "h.1"])
    {'embeddings': 3, 'h.0': 2, 'h.1': 1, 'head': 0}
    """
    inner = [level for level in dict.fromkeys(levels) if level not in (EMBEDDINGS, HEAD)]
    order = [level for level in (EMBEDDINGS, *inner, HEAD) if level in levels]
    return {level: len(order) - 1 - i for i, level in enumerate(order)}


Decision = tuple[bool, str]
"""Whether a parameter decays, and why."""


def no_decay_norm_bias(p: NamedParameter) -> Decision:
    """Decay everything but norms, biases and tensors with fewer than two dimensions.

    A norm is recognised by the class of its module, so that a gain with two dimensions does not decay, and by its
    dimension, so that a vector in a module of any class does not decay.
    """
    if p.in_norm:
        return False, "of a norm"
    if p.is_bias:
        return False, "a bias"
    if p.tensor.ndim < 2:
        return False, f"{p.tensor.ndim} dimension{'' if p.tensor.ndim == 1 else 's'}"
    return True, f"{p.tensor.ndim} dimensions"


def by_dimension(p: NamedParameter) -> Decision:
    """Decay tensors with two or more dimensions; modules and names do not matter (nanoGPT's rule)."""
    return p.tensor.ndim >= 2, f"{p.tensor.ndim} dimension{'' if p.tensor.ndim == 1 else 's'}"


def everything(p: NamedParameter) -> Decision:
    """Decay every parameter, as torch.optim does with ``model.parameters()``."""
    return True, "policy 'all'"


POLICIES: Mapping[str, Callable[[NamedParameter], Decision]] = {
    "no_decay_norm_bias": no_decay_norm_bias,
    "ndim>=2": by_dimension,
    "all": everything,
}
"""The policies by name."""
