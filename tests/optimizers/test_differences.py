"""Every row of docs/differences.md, held against torch by running both."""

import math
import warnings
from pathlib import Path

import pytest
import torch

import gradstep

PAGE = Path(__file__).parents[2] / "docs" / "differences.md"


def param(*shape, dtype=torch.float32, grad=1.0):
    p = torch.nn.Parameter(torch.ones(*shape, dtype=dtype))
    p.grad = torch.full_like(p, grad)
    return p


def taken(kind, *arguments, **named):
    kind([param(2)], *arguments, **named)
    return "taken"


def duplicate(package):
    p = param(2)
    return package.SGD([p, p]) and "taken"


def stepped(optimizer):
    optimizer.step()
    return "stepped"


def iterator(package):
    """How far a parameter moves in the second of two steps."""
    p = param(1)
    optimizer = package.SGD([p], lr=0.5)
    optimizer.param_groups[0]["params"] = iter([p])
    optimizer.step()
    after = p.item()
    optimizer.step()
    return after, p.item()


def sparse(package):
    p = param(3, 2)
    p.grad = torch.sparse_coo_tensor(torch.tensor([[0]]), torch.ones(1, 2), (3, 2), check_invariants=True)
    return stepped(package.SGD([p], lr=0.1))


def dtype_of_state(package):
    p = param(3, dtype=torch.bfloat16)
    optimizer = package.AdamW([p])
    optimizer.step()
    return optimizer.state[p]["exp_avg_sq"].dtype


def changed(package, **settings):
    optimizer = package.AdamW([param(2)])
    optimizer.step()
    optimizer.param_groups[0].update(settings)
    return stepped(optimizer)


def loaded(package, **changes):
    optimizer = package.AdamW([param(2)])
    optimizer.step()
    saved = optimizer.state_dict()
    saved["state"][0].update(changes)
    optimizer.load_state_dict(saved)
    return "taken"


def from_adam(package):
    p = param(2)
    adam = torch.optim.Adam([p], weight_decay=0.1)
    adam.step()
    package.AdamW([p]).load_state_dict(adam.state_dict())
    return "taken"


def state_keys(package):
    p = param(2)
    optimizer = package.SGD([p], lr=0.1, momentum=0.9)
    optimizer.step()
    return sorted(optimizer.state[p])


def whole_product(package):
    p = param(1)
    optimizer = package.NAdam([p])
    optimizer.step()
    optimizer.state[p]["mu_product"] = torch.tensor(1)
    return stepped(optimizer)


def late_momentum(package):
    p = param(1)
    optimizer = package.SGD([p], lr=0.1)
    optimizer.step()
    optimizer.param_groups[0].update(momentum=0.5, dampening=0.5)
    optimizer.step()
    return optimizer.state[p]["momentum_buffer"].item()


def centered(package):
    """Mean and mean square of a constant gradient: after 24 steps the variance is under 0 by rounding."""
    p = param(1, grad=1.3)
    optimizer = package.RMSprop([p], lr=0.01, alpha=0.5, centered=True)
    for _ in range(24):
        optimizer.step()
    return math.isnan(p.item())


def infinite_weight(package):
    p = param(1)
    p.data.fill_(math.inf)
    package.SGD([p], lr=0.1).step()
    return math.isnan(p.item())


def small_adafactor(package):
    """A gradient of 1e-5: above float32's machine epsilon of 1.2e-7, below bfloat16's of 7.8e-3."""
    p = param(2, 2, dtype=torch.bfloat16, grad=1e-5)
    package.Adafactor([p]).step()
    return p[0, 0].item() < 1


def extra_keys(package):
    return {"foreach", "fused", "capturable", "differentiable"} & package.AdamW([param(2)]).param_groups[0].keys()


def differentiable(package):
    """Whether a step is recorded, so that the weight's history leads to the learning rate."""
    w = param(1)
    p = w.clone()
    p.grad = torch.ones(1)
    lr = torch.tensor(0.1, requires_grad=True)
    optimizer = package.SGD([w], lr=lr, differentiable=True)
    optimizer.param_groups[0]["params"] = [p]
    optimizer.step()
    return p.grad_fn is not None


def muon_buffer(package):
    """The first momentum of a gradient of 4 on the diagonal, half of it: 2."""
    p = torch.nn.Parameter(torch.zeros(2, 2, dtype=torch.bfloat16))
    p.grad = torch.eye(2, dtype=torch.bfloat16) * 4
    optimizer = package.Muon([p], momentum=0.5, nesterov=False)
    optimizer.step()
    return round(float(optimizer.state[p]["momentum_buffer"][0, 0]), 1)


def muon_is_exact(package):
    """Whether a matrix of rank 1 moves along itself; its singular value goes through five quintics."""
    p = torch.nn.Parameter(torch.zeros(1, 1, dtype=torch.float64))
    p.grad = torch.ones_like(p)
    package.Muon([p], lr=1.0, weight_decay=0.0).step()
    x = 1.0
    for _ in range(5):
        x = 3.4445 * x - 4.7750 * x**3 + 2.0315 * x**5
    return abs(p.item() + x) < 1e-12


def muon_of_kernels(package):
    return stepped(
        package.Muon([{"params": [param(4, 2, 3, 3)], **({"matrices": "flatten"} if package is gradstep else {})}])
    )


ROWS = {
    "`fused=`, `foreach=`": (
        lambda k: {"fused", "foreach"} <= k.AdamW([param(2)], fused=True).defaults.keys(),
        True,
        False,
    ),
    "`capturable=True`": (lambda k: warned(lambda: taken(k.AdamW, capturable=True)), False, True),
    "`differentiable=True`": (differentiable, True, ValueError),
    "execution by position": (lambda k: taken(k.RMSprop, 0.01, 0.99, 1e-8, 0, 0, False, False), "taken", TypeError),
    "keys of `param_groups`": (
        extra_keys,
        {"foreach", "fused", "capturable", "differentiable"},
        set(),
    ),
    "keys of `state_dict()`": (
        lambda k: sorted(k.AdamW([param(2)]).state_dict()),
        ["param_groups", "state"],
        ["gradstep", "param_groups", "state"],
    ),
    "an Adam checkpoint into AdamW": (from_adam, "taken", ValueError),
    "what is loaded": (lambda k: loaded(k, step=torch.tensor(-5.0)), "taken", ValueError),
    "settings changed between steps": (lambda k: changed(k, lr=-1.0), "stepped", ValueError),
    "settings that are not finite": (lambda k: taken(k.AdamW, lr=math.inf), "taken", ValueError),
    "flags": (lambda k: taken(k.AdamW, amsgrad="no"), "taken", TypeError),
    "β as a whole number": (lambda k: taken(k.AdamW, betas=(0, 0.9)), ValueError, "taken"),
    "`lr` as a tensor with `foreach=True`": (
        lambda k: taken(k.AdamW, lr=torch.tensor(0.1), foreach=True),
        ValueError,
        "taken",
    ),
    "a parameter twice in a group": (duplicate, "taken", ValueError),
    'an iterator in `param_groups[0]["params"]`': (iterator, (0.5, 0.5), TypeError),
    "integer parameters": (lambda k: bool(k.SGD([torch.ones(2, dtype=torch.int64)])), True, TypeError),
    "sparse gradients": (sparse, "stepped", RuntimeError),
    "state of bfloat16 and float16 parameters": (dtype_of_state, torch.bfloat16, torch.float32),
    "Adafactor's ε₁ for bfloat16": (small_adafactor, False, True),
    "Adafactor without elements": (lambda k: stepped(k.Adafactor([param(0)])), ZeroDivisionError, "stepped"),
    "Muon in bfloat16 without Nesterov": (muon_buffer, 0.7, 2.0),
    "Muon of float64": (muon_is_exact, False, True),
    "Muon of kernels, experts and heads": (muon_of_kernels, ValueError, "stepped"),
    "when state is made": (lambda k: len(k.Adagrad([param(2)]).state), 1, 0),
    "SGD counts": (state_keys, ["momentum_buffer"], ["momentum_buffer", "step"]),
    "SGD's momentum switched on later, with dampening": (late_momentum, 1.0, 0.5),
    "NAdam's `mu_product` as a tensor of an integer": (whole_product, RuntimeError, "stepped"),
    "RMSprop's centered variance below 0 by rounding": (centered, True, False),
    "`amsgrad`, switched on later": (lambda k: changed(k, amsgrad=True), KeyError, "stepped"),
    "Adam without bias correction": (lambda k: taken(k.Adam, bias_correction=False), TypeError, "taken"),
    "a decay of 0 and an infinite weight": (infinite_weight, False, True),
}


def warned(call):
    gradstep.optimizers.arguments._warned.clear()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        call()
    return bool(said)


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate parameters:UserWarning")
@pytest.mark.filterwarnings("ignore:capturable=True changes nothing:UserWarning")
@pytest.mark.parametrize("row", ROWS)
def test_row(row):
    run, theirs, ours = ROWS[row]
    for package, expected in ((torch.optim, theirs), (gradstep, ours)):
        if isinstance(expected, type):
            with pytest.raises(expected):
                run(package)
        else:
            assert run(package) == expected, package.__name__


def test_the_page_has_these_rows():
    lines = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[1:]] == list(ROWS)


def test_the_classes_that_there_are_not():
    theirs = {n for n, v in vars(torch.optim).items() if isinstance(v, type) and issubclass(v, torch.optim.Optimizer)}
    missing = sorted(n for n in theirs - {"Optimizer"} if n not in gradstep.RULES)
    words = f"`{'`, `'.join(missing[:-1])}` and `{missing[-1]}`"
    assert f"There are no {words};" in PAGE.read_text("utf-8")
