"""What is known of a model's parameters: their names, and the kind of module each belongs to."""

from __future__ import annotations

import re
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
    """One parameter of a model, once, however many names it has.

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
        """What it is called."""
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
