"""Get the parameters of a model from a module, a count, a well-known name or a Hugging Face ``config.json``."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeAlias, final

from gradstep.planner.parameters import Model, Module, ParameterSpec, read_parameters
from gradstep.spelling import suggest


@final
@dataclass(frozen=True)
class GPT2:
    """GPT-2 (Radford et al., 2019); the output layer is the token embedding."""

    width: int
    layers: int
    vocabulary: int = 50_257
    positions: int = 1_024

    def parameters(self) -> Iterator[ParameterSpec]:
        """Yield every tensor once, under its name in Hugging Face's model; tied ones under the first name."""
        e = self.width
        yield ParameterSpec("transformer.wte.weight", (self.vocabulary, e))
        yield ParameterSpec("transformer.wpe.weight", (self.positions, e))
        block: dict[str, tuple[int, ...]] = {
            "ln_1": (e,),
            "attn.c_attn": (e, 3 * e),  # GPT-2's Conv1D: inputs first
            "attn.c_proj": (e, e),
            "ln_2": (e,),
            "mlp.c_fc": (e, 4 * e),
            "mlp.c_proj": (4 * e, e),
        }
        layers = {f"h.{i}.{name}": shape for i in range(self.layers) for name, shape in block.items()}
        for name, shape in {**layers, "ln_f": (e,)}.items():
            yield ParameterSpec(f"transformer.{name}.weight", shape)
            yield ParameterSpec(f"transformer.{name}.bias", shape[-1:])


@final
@dataclass(frozen=True)
class Llama:
    """Llama 3 (arXiv:2407.21783, Table 3) and 3.2: grouped-query attention, SwiGLU, no biases."""

    width: int
    layers: int
    hidden: int
    heads: int
    tied: bool
    head_size: int = 128
    groups: int = 8
    vocabulary: int = 128_256

    def parameters(self) -> Iterator[ParameterSpec]:
        """Yield every tensor once, as :meth:`GPT2.parameters` does."""
        e, queries, keys = self.width, self.heads * self.head_size, self.groups * self.head_size
        yield ParameterSpec("model.embed_tokens.weight", (self.vocabulary, e))
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
            yield from (ParameterSpec(f"model.layers.{i}.{name}.weight", shape) for name, shape in shapes.items())
        yield ParameterSpec("model.norm.weight", (e,))
        if not self.tied:
            yield ParameterSpec("lm_head.weight", (self.vocabulary, e))


Family: TypeAlias = GPT2 | Llama
"""A family of architectures, with the sizes of one model."""

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
"""The well-known models by name."""


def parameters_by_name(name: str) -> tuple[ParameterSpec, ...]:
    """Return the parameters of a model in :data:`MODELS`, in upper or lower case, with or without its organisation.

    Raises:
        ValueError: no such model; the message has similar names.

    >>> sum(p.numel for p in parameters_by_name("openai-community/gpt2"))
    124439808
    """
    key = name.strip().lower().rpartition("/")[2].replace("_", "-").removeprefix("meta-")
    if key not in MODELS:
        raise ValueError(
            f"Unknown model: {name!r}.{suggest(key, MODELS, similarity=0.5)} Known are {', '.join(MODELS)}; "
            "or give the number of parameters, such as 3B"
        )
    return tuple(MODELS[key].parameters())


CONFIG_FILE = "config.json"


def read_config(text: str) -> Model:
    """Return the model of a ``config.json``, or of one in a folder.

    If transformers is installed, its class is built on the meta device, which is exact for every architecture in it;
    otherwise the families of GPT-2 and Llama (with Mistral) are computed here.

    Raises:
        ValueError: no such file, not a configuration, or an architecture that is not known here.
    """
    file = Path(text) / CONFIG_FILE if Path(text).is_dir() else Path(text)
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"Cannot read {file}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{file} is no JSON: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ValueError(f"{file} is no configuration of a Hugging Face model: it has no 'model_type'")
    name = str(config.get("_name_or_path") or (file.resolve().parent.name if file.name == CONFIG_FILE else file.stem))
    return Model(name, _parameters_by_transformers(config) or _parameters_by_family(file, config))


def _parameters_by_transformers(config: Mapping[str, Any]) -> tuple[ParameterSpec, ...] | None:
    try:
        import torch
        import transformers
    except ModuleNotFoundError:
        return None
    any_model: Any = transformers.AutoModel
    kinds = [getattr(transformers, name, None) for name in config.get("architectures") or ()]
    settings = {name: value for name, value in config.items() if name != "model_type"}
    try:
        full_config = transformers.AutoConfig.for_model(config["model_type"], **settings)
        with torch.device("meta"):
            kind = next((kind for kind in kinds if kind is not None), None)
            module = any_model.from_config(full_config) if kind is None else kind(full_config)
    except Exception as error:  # classes of transformers raise many types of errors for unsuitable settings
        raise ValueError(
            f"transformers cannot make a model of type {config['model_type']!r} of this configuration: {error}"
        ) from error
    return tuple(read_parameters(module))


def _parameters_by_family(file: Path, config: Mapping[str, Any]) -> tuple[ParameterSpec, ...]:
    make_family = MODEL_FAMILIES.get(config["model_type"])
    if make_family is None or config.get("attention_bias"):
        raise ValueError(
            f"The architecture {config['model_type']!r} of {file} is not known here without transformers: "
            "pip install transformers torch, or give the number of parameters, such as 3B"
        )
    try:
        return tuple(make_family(config).parameters())
    except KeyError as error:
        raise ValueError(f"{file} does not say {error.args[0]!r}") from error


def _make_llama(config: Mapping[str, Any]) -> Family:
    heads = config["num_attention_heads"]
    return Llama(
        config["hidden_size"],
        config["num_hidden_layers"],
        config["intermediate_size"],
        heads=heads,
        tied=bool(config.get("tie_word_embeddings", False)),
        head_size=config.get("head_dim") or config["hidden_size"] // heads,
        groups=config.get("num_key_value_heads") or heads,
        vocabulary=config["vocab_size"],
    )


MODEL_FAMILIES: Mapping[str, Callable[[Mapping[str, Any]], Family]] = {
    "gpt2": lambda config: GPT2(config["n_embd"], config["n_layer"], config["vocab_size"], config["n_positions"]),
    "llama": _make_llama,
    "mistral": _make_llama,
}
"""The architectures that are computed without transformers."""


def model_of(model: Module | str | float) -> Model:
    """Return the model that the argument ``model`` of :func:`gradstep.plan` describes; tied weights count once.

    Raises:
        TypeError: another type.
        ValueError: an unknown name, a count that is not a whole number above 0, or a module without parameters.

    >>> [p.numel for p in model_of("3B").parameters]
    [3000000000]
    """
    if isinstance(model, Module):
        parameters = tuple(read_parameters(model))
        if not parameters:
            raise ValueError(f"{type(model).__name__} has no parameters")
        return Model(type(model).__name__, parameters)
    if isinstance(model, bool) or not isinstance(model, (str, int, float)):
        raise TypeError(f"a model is a torch.nn.Module, a count such as '3B', or a known name; not {model!r}")
    if isinstance(model, str) and (model.endswith(".json") or (Path(model) / CONFIG_FILE).is_file()):
        return read_config(model)
    if isinstance(model, str) and not model.strip()[:1].isdigit():
        return Model(model.strip(), parameters_by_name(model))
    # Two axes, since it represents matrices; exceptions for vectors do not apply.
    count = parse_count(model)
    return Model(model if isinstance(model, str) else f"{count:,}", (ParameterSpec("all", (1, count)),), counted=True)


COUNT_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}

_COUNT = re.compile(r"\s*([0-9][0-9_,]*(?:\.[0-9]+)?(?:[eE][+]?[0-9]+)?)\s*([A-Za-z]*)\s*")


def parse_count(text: str | float) -> int:
    """Return a number of parameters from "3B", "1.5b", "124M", 3e9 or 3_000_000_000; B is 10⁹.

    Raises:
        ValueError: not a whole number above 0, or no such suffix.

    >>> parse_count("1.5B"), parse_count(3e9)
    (1500000000, 3000000000)
    """
    if not isinstance(text, str):
        return _check_whole(Decimal(str(text)), text)
    match = _COUNT.fullmatch(text)
    if match is None or match[2].upper() not in COUNT_UNITS:
        raise ValueError(
            f"Invalid count: {text!r} (write 3B, 124M or 3000000000; K, M, B and T stand for 10³, 10⁶, 10⁹ and 10¹²)"
        )
    return _check_whole(Decimal(re.sub("[_,]", "", match[1])) * COUNT_UNITS[match[2].upper()], text)


def _check_whole(amount: Decimal, given: str | float) -> int:
    if not amount.is_finite() or amount <= 0 or amount != amount.to_integral_value():
        raise ValueError(f"Invalid count: {given!r} (must be a whole number above 0)")
    return int(amount)
