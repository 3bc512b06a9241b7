"""Parameter shapes of real models, by name, as in their common implementations."""

from math import prod

from gradstep.planner import GPT2

TensorShape = tuple[int, ...]
TensorShapes = dict[str, TensorShape]


def count_parameters(shapes: TensorShapes) -> int:
    """Return the number of parameters of a model."""
    return sum(prod(shape) for shape in shapes.values())


def _norm(name: str, width: int) -> TensorShapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _linear(name: str, *shape: int) -> TensorShapes:
    """Return a weight of this shape, and a bias of the length of its first axis."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def gpt2() -> TensorShapes:
    """Return the smallest GPT-2: 50,257 tokens, 1,024 positions; the token embedding is the output layer too.

    >>> len(gpt2()), count_parameters(gpt2())
    (148, 124439808)
    """
    return {p.name.removeprefix("transformer."): p.shape for p in GPT2(768, 12).parameters()}


def gpt2_blocks() -> TensorShapes:
    """Return the transformer blocks of the smallest GPT-2; weights have the shape (inputs, outputs).

    >>> len(gpt2_blocks()), count_parameters(gpt2_blocks())
    (144, 85054464)
    """
    return {name: shape for name, shape in gpt2().items() if name.startswith("h.")}


def resnet50() -> TensorShapes:
    """Return ResNet-50 as in torchvision, 1,000 classes.

    >>> len(resnet50()), count_parameters(resnet50())
    (161, 25557032)
    """
    shapes: TensorShapes = {"conv1.weight": (64, 3, 7, 7), **_norm("bn1", 64)}
    inputs = 64
    for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), 1):
        for block in range(blocks):
            at = f"layer{stage}.{block}"
            convolutions = ((width, inputs, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1))
            for k, shape in enumerate(convolutions, 1):
                shapes[f"{at}.conv{k}.weight"] = shape
                shapes |= _norm(f"{at}.bn{k}", shape[0])
            if block == 0:
                shapes[f"{at}.downsample.0.weight"] = (4 * width, inputs, 1, 1)
                shapes |= _norm(f"{at}.downsample.1", 4 * width)
            inputs = 4 * width
    return shapes | _linear("fc", 1_000, 2_048)


def vit_b_16(width: int = 768) -> TensorShapes:
    """Return ViT-B/16 as in torchvision, 224 × 224 pixels, 1,000 classes.

    >>> len(vit_b_16()), count_parameters(vit_b_16())
    (152, 86567656)
    """
    shapes: TensorShapes = {"class_token": (1, 1, width), **_linear("conv_proj", width, 3, 16, 16)}
    shapes["encoder.pos_embedding"] = (1, 197, width)
    for layer in range(12):
        at = f"encoder.layers.encoder_layer_{layer}"
        shapes |= _norm(f"{at}.ln_1", width)
        shapes |= {f"{at}.self_attention.in_proj_weight": (3 * width, width)}
        shapes |= {f"{at}.self_attention.in_proj_bias": (3 * width,)}
        shapes |= _linear(f"{at}.self_attention.out_proj", width, width)
        shapes |= _norm(f"{at}.ln_2", width)
        shapes |= _linear(f"{at}.mlp.0", 4 * width, width)
        shapes |= _linear(f"{at}.mlp.3", width, 4 * width)
    return shapes | _norm("encoder.ln", width) | _linear("heads.head", 1_000, width)
