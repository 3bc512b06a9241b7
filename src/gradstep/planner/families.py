"""The parameters of well-known models, computed from their configurations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import final

from gradstep.planner.parameters import Parameter


class Family(ABC):
    """An architecture with its sizes."""

    @abstractmethod
    def parameters(self) -> Iterator[Parameter]:
        """Every tensor once, under the names that Hugging Face's model has; tied ones under the first."""


@final
@dataclass(frozen=True)
class GPT2(Family):
    """GPT-2 (Radford et al., 2019); the output layer is the token embedding."""

    width: int
    layers: int
    vocabulary: int = 50_257
    positions: int = 1_024

    def parameters(self) -> Iterator[Parameter]:
        e = self.width
        yield Parameter("transformer.wte.weight", (self.vocabulary, e))
        yield Parameter("transformer.wpe.weight", (self.positions, e))
        for i in range(self.layers):
            block = f"transformer.h.{i}"
            yield from self._norm(f"{block}.ln_1")
            yield from self._linear(f"{block}.attn.c_attn", e, 3 * e)
            yield from self._linear(f"{block}.attn.c_proj", e, e)
            yield from self._norm(f"{block}.ln_2")
            yield from self._linear(f"{block}.mlp.c_fc", e, 4 * e)
            yield from self._linear(f"{block}.mlp.c_proj", 4 * e, e)
        yield from self._norm("transformer.ln_f")

    def _norm(self, name: str) -> Iterator[Parameter]:
        yield Parameter(f"{name}.weight", (self.width,))
        yield Parameter(f"{name}.bias", (self.width,))

    def _linear(self, name: str, inputs: int, outputs: int) -> Iterator[Parameter]:
        yield Parameter(f"{name}.weight", (inputs, outputs))  # GPT-2's Conv1D: inputs first
        yield Parameter(f"{name}.bias", (outputs,))


@final
@dataclass(frozen=True)
class Llama(Family):
    """Llama 3 (arXiv:2407.21783, Table 3) and 3.2: grouped-query attention, SwiGLU, no biases."""

    width: int
    layers: int
    hidden: int
    heads: int
    tied: bool
    head_size: int = 128
    groups: int = 8
    vocabulary: int = 128_256

    def parameters(self) -> Iterator[Parameter]:
        e, queries, keys = self.width, self.heads * self.head_size, self.groups * self.head_size
        yield Parameter("model.embed_tokens.weight", (self.vocabulary, e))
        shapes = {
            "self_attn.q_proj": (queries, e),
            "self_attn.k_proj": (keys, e),
            "self_attn.v_proj": (keys, e),
            "self_attn.o_proj": (e, queries),
            "mlp.gate_proj": (self.hidden, e),
            "mlp.up_proj": (self.hidden, e),
            "mlp.down_proj": (e, self.hidden),
            "input_layernorm": (e,),
            "post_attention_layernorm": (e,),
        }
        for i in range(self.layers):
            yield from (Parameter(f"model.layers.{i}.{name}.weight", shape) for name, shape in shapes.items())
        yield Parameter("model.norm.weight", (e,))
        if not self.tied:
            yield Parameter("lm_head.weight", (self.vocabulary, e))


MODELS: Mapping[str, Family] = {
    "gpt2": GPT2(768, 12),
    "gpt2-medium": GPT2(1_024, 24),
    "gpt2-large": GPT2(1_280, 36),
    "gpt2-xl": GPT2(1_600, 48),
    "llama-3.2-1b": Llama(2_048, 16, 8_192, heads=32, head_size=64, tied=True),
    "llama-3.2-3b": Llama(3_072, 28, 8_192, heads=24, tied=True),
    "llama-3-8b": Llama(4_096, 32, 14_336, heads=32, tied=False),
    "llama-3-70b": Llama(8_192, 80, 28_672, heads=64, tied=False),
}
"""Every model that is known by name."""


def known(name: str) -> tuple[Parameter, ...]:
    """The parameters of a well-known model.

    Args:
        name: as in :data:`MODELS`, in upper or lower case, with or without the organisation before it.

    Raises:
        ValueError: no such model, with what may have been meant.

    >>> sum(p.numel for p in known("openai-community/gpt2"))
    124439808
    """
    key = name.strip().lower().rpartition("/")[2].replace("_", "-").removeprefix("meta-")
    if key not in MODELS:
        near = get_close_matches(key, MODELS, n=2, cutoff=0.5)
        meant = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ValueError(
            f"Unknown model: {name!r}.{meant} Known are {', '.join(MODELS)}; "
            "or give the number of parameters, such as 3B"
        )
    return tuple(MODELS[key].parameters())
