"""Policies of parameter groups: the facts about a parameter, its names and modules, and what they decide.

:func:`gradstep.param_groups` makes groups by them, and :class:`gradstep.Muon` when it is given a whole model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gradstep.storage.policy import is_embedding, is_embedding_class

DEFAULT = "no_decay_norm_bias"
"""The usual policy."""

MUON = "muon"
"""The policy that gives hidden matrices to Muon."""

_NORM = re.compile(r"Norm(\d[dD])?$")
_BIAS = re.compile(r"^bias(_|$)|_bias$")


@final
@dataclass(frozen=True, eq=False)
class NamedParameter:
    """One parameter of a model with all its names; tied weights have several."""

    tensor: Tensor  # the parameter
    names: tuple[str, ...]  # all its names, in the model's order
    owners: tuple[nn.Module, ...]  # the modules that hold it, in the order of the names; empty if they are not known

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
        """Whether an embedding holds it: a module with a class or base class named ``…Embedding(Bag)``.

        Without a module it is guessed from the name.
        """
        return any(is_embedding_class(type(owner)) for owner in self.owners) or (
            not self.owners and is_embedding(self.name)
        )

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


Decision = tuple[bool, str]
"""Whether a parameter decays, and why."""


def no_decay_norm_bias(p: NamedParameter) -> Decision:
    """Decay everything but norms, biases and tensors with fewer than two dimensions.

    A norm is recognised by the class of its module, so that a gain with two dimensions does not decay, and by its
    dimension, so that a vector in a module of any class does not decay.
    """
    if p.in_norm:
        return False, "of a norm"
    return (False, "a bias") if p.is_bias else by_dimension(p)


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


_OUTPUT = frozenset({"head", "heads", "lm_head", "cls", "classifier", "score", "unembed", "qa_outputs"})
"""Names of modules that are output layers, or contain them."""

_CONVOLUTION = re.compile(r"^(Lazy)?Conv")


def find_output_layers(params: Sequence[NamedParameter]) -> frozenset[NamedParameter]:
    """Return the matrices of output layers: those in a module with such a name, else the last one of the model.

    A model whose output layer is tied to an embedding has no other.
    """
    matrices = [p for p in params if p.tensor.ndim >= 2 and not (p.in_norm or p.in_embedding)]
    named = [p for p in matrices if has_output_name(p)]
    is_tied = any(p.in_embedding and not all(is_embedding_class(type(owner)) for owner in p.owners) for p in params)
    return frozenset(named or ([] if is_tied else matrices[-1:]))


def has_output_name(p: NamedParameter) -> bool:
    """Return whether a parameter is in a module with the name of an output layer."""
    return any(not _OUTPUT.isdisjoint(name.split(".")[:-1]) for name in p.names)


def choose_rule(
    p: NamedParameter, heads: frozenset[NamedParameter], reason: str, matrices: str | int | None = None
) -> tuple[dict[str, Any], str]:
    """Return the settings of Muon for a parameter, empty if it is not for Muon, and the reason.

    Args:
        p: the parameter.
        heads: the matrices of output layers.
        reason: why it decays or not; for norms, biases and vectors that is also why they are not for Muon.
        matrices: how the user says that parameters of more than two dimensions are matrices; None if they do not.

    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024: embeddings, the output layer
    and vectors take AdamW; kernels of convolutions are flattened.
    """
    if p.in_embedding:
        return {}, "an embedding"
    if p.in_norm or p.is_bias or p.tensor.ndim < 2:
        return {}, reason
    if p in heads:
        return {}, "the output layer" if p.owners or has_output_name(
            p
        ) else "the last matrix, taken for the output layer"
    if p.tensor.ndim == 2:
        return {"rule": "Muon"}, "a hidden matrix"
    if matrices is not None:
        return {"rule": "Muon"}, f"matrices={matrices!r}"
    if any(_CONVOLUTION.search(cls.__name__) for owner in p.owners for cls in type(owner).__mro__):
        return {"rule": "Muon", "matrices": "flatten"}, "kernels of a convolution"
    remedy = 'override "rule" and "matrices"' if p.owners else "give model= or matrices="
    return {}, f"{reason}, not known as matrices: {remedy}"
