"""The parameters of a model that a plan is for: name, shape and type of each, without the values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any, Protocol, final, runtime_checkable

from gradstep.storage.policy import is_embedding_class

ITEMSIZES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""The types of weights and gradients that can be planned, with the bytes of an element."""


@final
@dataclass(frozen=True)
class ParameterSpec:
    """The facts about one parameter."""

    name: str  # its name in the model
    shape: tuple[int, ...]  # its shape
    dtype: str = "float32"  # torch's name of its type
    itemsize: int = 4  # bytes of one element
    trainable: bool = True  # whether it has a gradient
    embedding: bool | None = None  # whether an embedding holds it; None if this can only be guessed from its name
    local: tuple[int, ...] | None = None  # the shape of the part that a rank keeps; None for all of it

    @property
    def part(self) -> tuple[int, ...]:
        """The shape of the part that a rank keeps."""
        return self.shape if self.local is None else self.local

    def local_nbytes(self, dtype: str | None = None) -> int:
        """Return the bytes of the part that a rank keeps, in this real type or its own.

        >>> ParameterSpec("w", (8, 3)).local_nbytes("bfloat16")
        48
        """
        return prod(self.part) * (self.itemsize if dtype is None or self.pieces > 1 else ITEMSIZES[dtype])

    @property
    def numel(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    def cast(self, dtype: str | None) -> ParameterSpec:
        """Return the parameter in another real type; unchanged for None, or if it is complex.

        >>> ParameterSpec("w", (8, 3)).cast("bfloat16").local_nbytes()
        48
        """
        if dtype is None or dtype == self.dtype or self.pieces > 1:
            return self
        return replace(self, dtype=dtype, itemsize=ITEMSIZES[dtype])

    @property
    def pieces(self) -> int:
        """Real numbers in one element: 2 if it is complex, else 1."""
        return 2 if self.dtype.startswith("complex") else 1

    @property
    def real_dtype(self) -> str:
        """The type of its real numbers."""
        return {"complex32": "float16", "complex64": "float32", "complex128": "float64"}.get(self.dtype, self.dtype)

    @property
    def is_half(self) -> bool:
        """Whether the type has 16 bits, too few to update in it."""
        return self.dtype in ("bfloat16", "float16")


@runtime_checkable
class Module(Protocol):
    """The methods of ``torch.nn.Module`` that the planner calls."""

    def named_parameters(self) -> Iterator[tuple[str, Any]]:
        """Yield every parameter once, with its name."""

    def modules(self) -> Iterator[Any]:
        """Yield the module and every module in it."""


@final
@dataclass(frozen=True)
class Model:
    """A model that a plan is for."""

    name: str  # its name
    parameters: tuple[ParameterSpec, ...]  # each tensor once
    # whether only their number is known: ``parameters`` is then a single tensor of that size, for sums, and
    # :attr:`largest` a likely largest tensor
    counted: bool = False

    @property
    def largest(self) -> tuple[ParameterSpec, ...]:
        """The parameters for finding the largest tensor and block; of a count, one plausible embedding."""
        if not self.counted:
            return self.parameters
        return tuple(replace(p, shape=(1, plausible_embedding(p.numel))) for p in self.parameters)

    def cast(self, dtype: str | None) -> Model:
        """Return the model with all its parameters in another type."""
        return replace(self, parameters=tuple(p.cast(dtype) for p in self.parameters))

    @property
    def dtype(self) -> str | None:
        """The type of all parameters, if it is one of :data:`ITEMSIZES`."""
        dtypes = {p.dtype for p in self.parameters}
        return min(dtypes) if len(dtypes) == 1 and dtypes <= ITEMSIZES.keys() else None

    @cached_property
    def trainable(self) -> tuple[ParameterSpec, ...]:
        """The parameters that have gradients and state."""
        return tuple(p for p in self.parameters if p.trainable)


def plausible_embedding(count: int) -> int:
    """Estimate the elements of the largest tensor, the embedding, of a language model of ``count`` parameters.

    A transformer of width d has about 12 d² parameters in each of about d / 128 layers; Llama 3's vocabulary is
    128,256; and in the smallest model, GPT-2, the embedding is 31% of all. For GPT-2, Llama 3 and Llama 3.2 that is 1.0
    to 1.15 times the truth; for GPT-2 medium to XL, with their 50,257 tokens, 2 to 4 times.

    >>> f"{plausible_embedding(3_212_749_824):,}"  # llama-3.2-3b has 128,256 × 3,072 = 394,002,432
    '416,593,896'
    """
    width = float((128 * count / 12) ** (1 / 3))
    return max(1, min(count * 31 // 100, round(128_256 * width)))


def read_parameters(model: Module) -> Iterator[ParameterSpec]:
    """Yield the facts about every parameter of a module, tied ones once."""
    embeddings = {id(p) for m in model.modules() if is_embedding_class(type(m)) for p in m.parameters(recurse=False)}
    for name, p in model.named_parameters():
        yield ParameterSpec(
            name=name,
            shape=tuple(p.shape),
            dtype=str(p.dtype).removeprefix("torch."),
            itemsize=p.element_size(),
            trainable=p.requires_grad,
            embedding=id(p) in embeddings,
        )
