"""Changes of the gradient before the rule uses it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from gradstep.judge.algebra.expression import G, Node, call, number
from gradstep.judge.catalogue.mistake import Mistake
from gradstep.judge.formula import Edit

_READ = "clipping is the caller's, before step(); torch.nn.utils.clip_grad_norm_ and clip_grad_value_"


def _replace_gradient(make: Callable[[Node], Node]) -> Edit:
    new = make(G)
    return lambda program: program.rewrite(lambda n: new if n is G else n)


def _clamp(g: Node, limit: float) -> Node:
    low = call("maximum", g, number(-limit))
    return -call("maximum", -low, number(-limit))


def _norm(g: Node) -> Node:
    return call("sum", g**2) ** 0.5


def _clip_norm(g: Node) -> Node:
    """Clip the norm to 1 as torch's clip_grad_norm_ does, but for each tensor by itself."""
    return g / call("maximum", _norm(g), number(1))


def _mistake(name: str, sentence: str, look_for: str, make: Callable[[Node], Node]) -> Mistake:
    return Mistake(name, sentence, look_for, _replace_gradient(make), read=_READ)


MISTAKES = (
    *(
        _mistake(
            f"gradient-clamped-at-{limit:g}",
            f"each element of the gradient clamped to ±{limit:g}",
            f"`grad.clamp(-{limit:g}, {limit:g})` or `np.clip` inside the optimizer",
            partial(_clamp, limit=limit),
        )
        for limit in (1.0, 0.5, 5.0, 10.0, 0.1)
    ),
    _mistake(
        "gradient-clipped-by-norm",
        "each tensor's gradient clipped to the norm 1",
        "`grad / max(1, norm)` inside the optimizer",
        _clip_norm,
    ),
    _mistake(
        "gradient-normalised",
        "each tensor's gradient divided by its norm",
        "`grad / grad.norm()` inside the optimizer",
        lambda g: g / _norm(g),
    ),
    _mistake(
        "gradient-centred",
        "each tensor's gradient with its mean subtracted",
        "`grad - grad.mean()` inside the optimizer",
        lambda g: g - call("mean", g),
    ),
    _mistake(
        "gradient-centred-by-row",
        "the gradient with each row's mean subtracted: gradient centralisation",
        "`grad - grad.mean(dim=..., keepdim=True)` inside the optimizer",
        lambda g: g - call("row_mean", g),
    ),
    _mistake(
        "gradient-by-sign",
        "the gradient's sign instead of the gradient",
        "`grad.sign()` before the averages",
        lambda g: call("sign", g),
    ),
    _mistake(
        "gradient-by-magnitude",
        "the gradient's magnitude instead of the gradient",
        "`abs(grad)` before the averages",
        lambda g: call("abs", g),
    ),
    _mistake(
        "gradient-averaged-over-elements",
        "each tensor's gradient divided by the number of its elements",
        "`grad / grad.numel()`: the loss has its mean already",
        lambda g: g / call("size", g),
    ),
)
