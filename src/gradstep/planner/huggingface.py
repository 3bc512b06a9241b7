"""The parameters of a model that a Hugging Face ``config.json`` describes; no weights are loaded."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gradstep.planner.families import GPT2, Family, Llama
from gradstep.planner.parameters import Model, Parameter, parameters_of

FILE = "config.json"


def is_config(text: str) -> bool:
    """Whether a text names a ``config.json``, or a folder that holds one.

    >>> is_config("gpt2"), is_config("runs/config.json")
    (False, True)
    """
    return text.endswith(".json") or (Path(text) / FILE).is_file()


def model_of_config(text: str) -> Model:
    """The model that a configuration describes.

    Where transformers is installed, its own class is built on the meta device, so that every architecture that it
    knows is exact; without it, the families of GPT-2 and Llama (with Mistral) are computed here.

    Args:
        text: a ``config.json``, or a folder that holds one.

    Raises:
        ValueError: there is no such file, it is no configuration, or its architecture is not known here.
    """
    file = Path(text) / FILE if Path(text).is_dir() else Path(text)
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"Cannot read {file}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{file} is no JSON: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ValueError(f"{file} is no configuration of a Hugging Face model: it has no 'model_type'")
    name = str(config.get("_name_or_path") or (file.resolve().parent.name if file.name == FILE else file.stem))
    return Model(name, _by_transformers(config) or _by_family(file, config))


def _by_transformers(config: Mapping[str, Any]) -> tuple[Parameter, ...] | None:
    try:
        import torch
        import transformers
    except ModuleNotFoundError:
        return None
    any_model: Any = transformers.AutoModel
    kinds = [getattr(transformers, name, None) for name in config.get("architectures") or ()]
    settings = {name: value for name, value in config.items() if name != "model_type"}
    try:
        made = transformers.AutoConfig.for_model(config["model_type"], **settings)
        with torch.device("meta"):
            kind = next((kind for kind in kinds if kind is not None), None)
            module = any_model.from_config(made) if kind is None else kind(made)
    except Exception as error:  # whatever a class of transformers raises for settings that it cannot use
        raise ValueError(
            f"transformers cannot make a model of type {config['model_type']!r} of this configuration: {error}"
        ) from error
    return tuple(parameters_of(module))


def _by_family(file: Path, config: Mapping[str, Any]) -> tuple[Parameter, ...]:
    made = FAMILIES.get(config["model_type"])
    if made is None or config.get("attention_bias"):
        raise ValueError(
            f"The architecture {config['model_type']!r} of {file} is not known here without transformers: "
            "pip install transformers torch, or give the number of parameters, such as 3B"
        )
    try:
        return tuple(made(config).parameters())
    except KeyError as error:
        raise ValueError(f"{file} does not say {error.args[0]!r}") from error


def _gpt2(config: Mapping[str, Any]) -> Family:
    return GPT2(config["n_embd"], config["n_layer"], config["vocab_size"], config["n_positions"])


def _llama(config: Mapping[str, Any]) -> Family:
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


FAMILIES: Mapping[str, Callable[[Mapping[str, Any]], Family]] = {"gpt2": _gpt2, "llama": _llama, "mistral": _llama}
"""The architectures that are computed without transformers."""
