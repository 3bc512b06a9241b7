"""What is done to the gradient before it enters the rule."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from gradstep.judge.algebra.anatomy import raised
from gradstep.judge.algebra.expression import G, Node, call, minus, mul, number, root, square
from gradstep.judge.catalogue.mistake import Mistake
from gradstep.judge.formula import Edit

_READ = "clipping is the caller's, before step(); torch.nn.utils.clip_grad_norm_ and clip_grad_value_"


def _to(make: Callable[[Node], Node]) -> Edit:
    new = make(G)
    return lambda program: program.rewriting(lambda n: new if n is G else n)


def _clamped(g: Node, limit: float) -> Node:
    low = call("maximum", g, number(-limit))
    return mul(number(-1), call("maximum", mul(number(-1), low), number(-limit)))


def _norm(g: Node) -> Node:
    return root(call("sum", square(g)))


def _limited(g: Node) -> Node:
    """Torch's clip_grad_norm_ to 1, by itself for each tensor."""
    return mul(g, raised(call("maximum", _norm(g), number(1)), -1))


def _kind(name: str, sentence: str, look_for: str, make: Callable[[Node], Node]) -> Mistake:
    return Mistake(name, sentence, look_for, _READ, _to(make))


MISTAKES = (
    *(
        _kind(
            f"gradient-clamped-at-{limit:g}",
            f"each element of the gradient clamped to ±{limit:g}",
            f"`grad.clamp(-{limit:g}, {limit:g})` or `np.clip` inside the optimizer",
            partial(_clamped, limit=limit),
        )
        for limit in (1.0, 0.5, 5.0, 10.0, 0.1)
    ),
    _kind(
        "gradient-clipped-by-norm",
        "each tensor's gradient clipped to the norm 1",
        "`grad / max(1, norm)` inside the optimizer",
        _limited,
    ),
    _kind(
        "gradient-normalised",
        "each tensor's gradient divided by its norm",
        "`grad / grad.norm()` inside the optimizer",
        lambda g: mul(g, raised(_norm(g), -1)),
    ),
    _kind(
        "gradient-centred",
        "each tensor's gradient with its mean subtracted",
        "`grad - grad.mean()` inside the optimizer",
        lambda g: minus(g, call("mean", g)),
    ),
    _kind(
        "gradient-centred-by-row",
        "the gradient with each row's mean subtracted: gradient centralisation",
        "`grad - grad.mean(dim=..., keepdim=True)` inside the optimizer",
        lambda g: minus(g, call("row_mean", g)),
    ),
    _kind(
        "gradient-by-sign",
        "the gradient's sign instead of the gradient",
        "`grad.sign()` before the averages",
        lambda g: call("sign", g),
    ),
    _kind(
        "gradient-by-magnitude",
        "the gradient's magnitude instead of the gradient",
        "`abs(grad)` before the averages",
        lambda g: call("abs", g),
    ),
    _kind(
        "gradient-averaged-over-elements",
        "each tensor's gradient divided by the number of its elements",
        "`grad / grad.numel()`: the loss has its mean already",
        lambda g: mul(g, raised(call("size", g), -1)),
    ),
)
