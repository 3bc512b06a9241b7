"""Mutations of parameters, state, groups and checkpoints between two steps, as a user could make them."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy, deepcopy
from dataclasses import dataclass, field
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from fuzzing.tensors import Tagged, in_inference, leaked, normal
from gradstep.optimizers.memory import lacks_memory


class NotHere(Exception):
    """The mutation does not apply to this optimizer: its state has no such key."""


@dataclass
class World:
    """One optimizer with its parameters, of gradstep or of torch.

    Attributes:
        optimizer: the optimizer.
        params: its parameters.
        numbers: the generator of random numbers; two worlds of one case draw the same.
    """

    optimizer: Any
    params: list[Tensor]
    numbers: torch.Generator = field(default_factory=torch.Generator)

    def entry(self, pick: Random) -> tuple[Tensor, dict[str, Any]]:
        """Return a parameter that has state, and its state."""
        index = pick.randrange(len(self.params))
        for p in (*self.params[index:], *self.params[:index]):
            entry = self.optimizer.state.get(p)
            if entry:
                return p, entry
        raise NotHere


def _free(t: Tensor) -> Tensor:
    t = t.clone()
    t.untyped_storage().resize_(0)
    return t


def _shorten_memory(t: Tensor) -> Tensor:
    t = t.clone()
    t.untyped_storage().resize_(max(t.untyped_storage().nbytes() // 2, 1))
    return t


def _two(t: Tensor) -> Tensor:
    from torch.testing._internal.two_tensor import TwoTensor

    return TwoTensor(t, t.clone())


def _stride(t: Tensor) -> Tensor:
    return t.repeat(*[2] * t.dim())[tuple([slice(0, 2 * n, 2) for n in t.shape])]


ARRAYS: dict[str, Callable[[Tensor], Any]] = {
    "longer": lambda t: torch.cat([t, t, t, t]),
    "one longer": lambda t: torch.cat([t, t[:1]]),
    "shorter": lambda t: t[: t.shape[0] // 2].clone(),
    "one shorter": lambda t: t[:-1],
    "flat": lambda t: t.reshape(-1),
    "with an axis more": lambda t: t.unsqueeze(0),
    "one number": lambda t: torch.zeros((), dtype=t.dtype),
    "float64": lambda t: t.double(),
    "float32": lambda t: t.float(),
    "bfloat16": lambda t: t.bfloat16(),
    "float16": lambda t: t.half(),
    "integers": lambda t: t.long(),
    "booleans": lambda t: t.bool(),
    "bytes": lambda t: torch.ones(t.shape, dtype=torch.uint8),
    "complex": lambda t: t.to(torch.complex64),
    "of another order of memory": lambda t: t.t().contiguous().t(),
    "strided": _stride,
    "expanded": lambda t: t.reshape(-1)[:1].reshape([1] * t.dim()).expand(t.shape),
    "on meta": lambda t: t.to("meta"),
    "None": lambda t: None,
    "a number": lambda t: 0.5,
    "a string": lambda t: "x",
    "a list": lambda t: t.tolist(),
    "NumPy's": lambda t: t.numpy().copy(),
    "sparse": lambda t: t.to_sparse(),
    "zero tensor": lambda t: torch._efficientzerotensor(t.shape, dtype=t.dtype),
    "TwoTensor": _two,
    "subclass": lambda t: t.as_subclass(Tagged),
    "freed": _free,
    "short of memory": _shorten_memory,
    "negated": lambda t: torch._neg_view(t),
    "lazy clone": lambda t: t._lazy_clone(),
    "Parameter": lambda t: Parameter(t.clone(), requires_grad=False),
    "that needs a gradient": lambda t: t.clone().requires_grad_(),
    "made in inference": in_inference,
    "quantized": lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
    "mkldnn": lambda t: t.to_mkldnn(),
    "nested": lambda t: torch.nested.nested_tensor([t.reshape(-1), t.reshape(-1)[:1]]),
    "float8": lambda t: t.to(torch.float8_e4m3fn),
    "of vmap": lambda t: leaked(torch.func.vmap, t.expand(2, *t.shape)),
    "copy": lambda t: t.clone(),
    "zeros": torch.zeros_like,
    "NaN": lambda t: torch.full_like(t, torch.nan),
    "negative": lambda t: -t - 1,
    "huge": lambda t: torch.full_like(t, 1e30),
}
"""Replacements of an array of state."""

NUMBERS: dict[str, Callable[[], Any]] = {
    "-5": lambda: -5,
    "a tensor of -1": lambda: torch.tensor(-1.0, dtype=torch.float32),
    "NaN": lambda: torch.tensor(torch.nan, dtype=torch.float32),
    "infinity": lambda: float("inf"),
    "2.5": lambda: 2.5,
    "1e30": lambda: torch.tensor(1e30, dtype=torch.float32),
    "a string": lambda: "x",
    "None": lambda: None,
    "a tensor of two": lambda: torch.tensor([1.0, 2.0], dtype=torch.float32),
    "a tensor of one": lambda: torch.tensor([2.0], dtype=torch.float32),
    "an int": lambda: 7,
    "a tensor of an int": lambda: torch.tensor(7),
    "float64": lambda: torch.tensor(3.0, dtype=torch.float64),
    "complex": lambda: torch.tensor(1j, dtype=torch.complex64),
    "True": lambda: True,
    "0": lambda: torch.tensor(0.0, dtype=torch.float32),
    "2**24": lambda: torch.tensor(2.0**24, dtype=torch.float32),
    "1000": lambda: torch.tensor(1000.0, dtype=torch.float32),
    "on meta": lambda: torch.tensor(2.0, device="meta", dtype=torch.float32),
    "a list": lambda: [1],
    "bytes": lambda: bytearray(b"3"),
    "freed": lambda: _free(torch.tensor(3.0, dtype=torch.float32)),
    "zero tensor": lambda: torch._efficientzerotensor((), dtype=torch.float32),
    "sparse": lambda: torch.tensor(3.0, dtype=torch.float32).to_sparse(),
    "float16": lambda: torch.tensor(3.0, dtype=torch.float16),
    "that needs a gradient": lambda: torch.tensor(3.0, dtype=torch.float32, requires_grad=True),
    "of vmap": lambda: leaked(torch.func.vmap, torch.full((2,), 3.0)),
    "made in inference": lambda: in_inference(torch.tensor(3.0, dtype=torch.float32)),
}
"""Replacements of a number that state has once per parameter."""


def spoil_state(world: World, pick: Random, key: str, how: str) -> None:
    """Replace one value of a parameter's state."""
    spoil(world.entry(pick)[1], key, how)


def spoil(entry: Any, key: str, how: str) -> None:
    """Replace one value of an entry."""
    if not isinstance(entry, dict) or key not in entry:
        raise NotHere
    if how == "deleted":
        del entry[key]
    elif how in NUMBERS and not (isinstance(entry[key], Tensor) and entry[key].dim()):
        entry[key] = NUMBERS[how]()
    else:
        if how not in ARRAYS or not isinstance(entry[key], Tensor):
            raise NotHere
        entry[key] = ARRAYS[how](entry[key])


IN_PLACE: dict[str, Callable[[Tensor], Any]] = {
    "filled with -5": lambda t: t.fill_(-5),
    "filled with NaN": lambda t: t.fill_(torch.nan),
    "filled with 1e30": lambda t: t.fill_(1e30),
    "filled with 2.5": lambda t: t.fill_(2.5),
    "filled with 7": lambda t: t.fill_(7),
    "resized": lambda t: t.resize_(3),
    "with an axis more": lambda t: t.unsqueeze_(0),
    "data replaced": lambda t: setattr(t, "data", torch.full_like(t, 3)),
    "data longer": lambda t: setattr(t, "data", torch.ones(50, dtype=t.dtype)),
    "data negated": lambda t: setattr(t, "data", torch._neg_view(t.detach())),
    "freed": lambda t: t.untyped_storage().resize_(0),
    "short of memory": lambda t: t.untyped_storage().resize_(t.untyped_storage().nbytes() // 2),
}
"""Changes in place of a value of state."""


def find_field(entry: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """Return the dictionary that has an array of state, and its key there: a checkpoint's entry has some in others."""
    slot, _, field = key.rpartition("_")
    for name, inner in ((key, "codes"), (slot, field)):
        if isinstance(entry.get(name), dict) and inner in entry[name]:
            return entry[name], inner
    return entry, key


def spoil_in_place(world: World, pick: Random, key: str, how: str, way: str) -> None:
    """Change a value of a parameter's state in place; ``way`` says where the user got it from."""
    optimizer = {"state": lambda: world.optimizer, "copy": lambda: copy(world.optimizer)}.get(way)
    if optimizer is not None:
        state, keys = optimizer().state, world.params
    else:
        state = world.optimizer.state_dict()["state"]
        keys = sorted(k for k in state if isinstance(k, int))
    having = [state[k] for k in keys if state.get(k)]
    if not having:
        raise NotHere
    entry = having[pick.randrange(len(having))]
    holder, key = find_field(entry, key)
    value = holder.get(key)
    if not isinstance(value, Tensor) or lacks_memory(value):  # torch itself would write to memory that does not exist
        raise NotHere
    with torch.no_grad():
        IN_PLACE[how](value)


def _twin(w: World, pick: Random) -> None:
    _, entry = w.entry(pick)
    keys = sorted(key for key, value in entry.items() if isinstance(value, Tensor) and value.dim())
    if len(keys) < 2:
        raise NotHere
    entry[keys[1]] = entry[keys[0]]


def _alias_parameter(w: World, pick: Random) -> None:
    p, entry = w.entry(pick)
    keys = sorted(k for k, v in entry.items() if isinstance(v, Tensor) and v.shape == p.shape and v.dim())
    if not keys:
        raise NotHere
    entry[keys[0]] = p.detach()


def _two_entries(w: World) -> tuple[Tensor, Tensor]:
    having = [p for p in w.params if w.optimizer.state.get(p)]
    if len(having) < 2 or having[0] is having[1]:
        raise NotHere
    return having[0], having[1]


def _swap(w: World, pick: Random) -> None:
    a, b = _two_entries(w)
    state = w.optimizer.state
    state[a], state[b] = state[b], state[a]


def _share(w: World, pick: Random) -> None:
    a, b = _two_entries(w)
    w.optimizer.state[b] = w.optimizer.state[a]


def _replace_parameter(w: World, pick: Random, rows: int, *, fit: bool) -> None:
    """Replace a parameter and its state by one with more or fewer rows, as densification does."""
    p, _ = w.entry(pick)
    if not p.dim() or p.layout != torch.strided or p.shape[0] + rows < 0:
        raise NotHere
    old = len(p)

    def cut(t: Tensor) -> Tensor:
        return t[: old + rows] if rows <= 0 else torch.cat([t, torch.zeros_like(t[:1]).expand(rows, *t.shape[1:])])

    q = Parameter(cut(p.detach()).clone())
    where = next(i for i, x in enumerate(w.params) if x is p)
    state = w.optimizer.state.pop(p)
    if fit:
        state = {
            k: cut(v).clone() if isinstance(v, Tensor) and v.dim() and v.shape[:1] == p.shape[:1] else v
            for k, v in state.items()
        }
    w.optimizer.state[q] = state
    for group in w.optimizer.param_groups:
        group["params"] = [q if x is p else x for x in group["params"]]
    w.params[where] = q


def _set_data(make: Callable[[Tensor], Tensor], *, stale: bool = False) -> Callable[[World, Random], None]:
    def mutate(w: World, pick: Random) -> None:
        p = w.params[pick.randrange(len(w.params))]
        if not stale:
            p.grad = None
        p.data = make(p.detach())

    return mutate


def _free_parameter(w: World, pick: Random) -> None:
    w.params[pick.randrange(len(w.params))].untyped_storage().resize_(0)


def _resize(w: World, pick: Random) -> None:
    p = w.params[pick.randrange(len(w.params))]
    p.grad = None
    p.data.resize_(p.numel() * 3 + 2)


def _share_data(w: World, pick: Random) -> None:
    if len(w.params) < 2 or w.params[0].shape != w.params[1].shape:
        raise NotHere
    w.params[1].data = w.params[0].data


def _require_no_gradient(w: World, pick: Random) -> None:
    w.params[pick.randrange(len(w.params))].requires_grad_(False)


PARAMETERS: dict[str, Callable[[World, Random], None]] = {
    "data replaced": _set_data(lambda t: t.clone() + 1),
    "data longer": _set_data(lambda t: torch.cat([t, t, t])),
    "data longer, gradient as before": _set_data(lambda t: torch.cat([t, t, t]), stale=True),
    "data shorter": _set_data(lambda t: t[: len(t) // 2].clone()),
    "data shorter, gradient as before": _set_data(lambda t: t[: len(t) // 2].clone(), stale=True),
    "data flat": _set_data(lambda t: t.reshape(-1).clone()),
    "data of float16": _set_data(lambda t: t.half()),
    "data of bfloat16, gradient as before": _set_data(lambda t: t.bfloat16(), stale=True),
    "data of float64": _set_data(lambda t: t.double()),
    "data of integers": _set_data(lambda t: t.long()),
    "data of another order of memory": _set_data(lambda t: t.t().contiguous().t()),
    "data strided": _set_data(_stride),
    "data expanded": _set_data(lambda t: t.reshape(-1)[:1].reshape([1] * t.dim()).expand(t.shape)),
    "data on meta": _set_data(lambda t: t.to("meta")),
    "data sparse": _set_data(lambda t: t.to_sparse()),
    "data a TwoTensor": _set_data(_two),
    "data a zero tensor": _set_data(lambda t: torch._efficientzerotensor(t.shape, dtype=t.dtype)),
    "data negated": _set_data(lambda t: torch._neg_view(t)),
    "data a lazy clone": _set_data(lambda t: t._lazy_clone()),
    "data shared with another's": _share_data,
    "data resized": _resize,
    "memory freed": _free_parameter,
    "requires_grad off": _require_no_gradient,
    "rows appended, state too": lambda w, pick: _replace_parameter(w, pick, 3, fit=True),
    "rows pruned, state too": lambda w, pick: _replace_parameter(w, pick, -2, fit=True),
    "many rows appended, state not": lambda w, pick: _replace_parameter(w, pick, 400, fit=False),
    "rows pruned, state not": lambda w, pick: _replace_parameter(w, pick, -3, fit=False),
    "replaced, state too": lambda w, pick: _replace_parameter(w, pick, 0, fit=True),
}
"""Mutations of a parameter."""


def _set_entry(value: Any) -> Callable[[World, Random], None]:
    def mutate(w: World, pick: Random) -> None:
        w.optimizer.state[w.params[pick.randrange(len(w.params))]] = deepcopy(value)

    return mutate


def _extra(key: Any, value: Any) -> Callable[[World, Random], None]:
    def mutate(w: World, pick: Random) -> None:
        w.entry(pick)[1][key] = deepcopy(value)

    return mutate


ENTRIES: dict[str, Callable[[World, Random], None]] = {
    "empty": _set_entry({}),
    "a number": _set_entry(5),
    "None": _set_entry(None),
    "a list": _set_entry([1]),
    "only a step": _set_entry({"step": torch.tensor(3.0)}),
    "swapped with another's": _swap,
    "shared with another": _share,
    "two slots in one array": _twin,
    "a slot that is the parameter": _alias_parameter,
    "a number more": _extra("extra", 3),
    "a tensor more": _extra("extra", torch.ones(2)),
    "a key that is no string": _extra(7, 1),
    "deleted": lambda w, pick: w.optimizer.state.pop(w.params[pick.randrange(len(w.params))], None),
    "all deleted": lambda w, pick: w.optimizer.state.clear(),
    "foreign": lambda w, pick: w.optimizer.state.update(ema=1),
    "a dictionary in place of all": lambda w, pick: setattr(w.optimizer, "state", dict(w.optimizer.state)),
}
"""Mutations of a parameter's entry of the state, or beside it."""


def _setting(name: str, value: Any) -> Callable[[World, Random], None]:
    def mutate(w: World, pick: Random) -> None:
        group = w.optimizer.param_groups[-1]
        if name not in group:
            raise NotHere
        group[name] = deepcopy(value)

    return mutate


def _append(w: World, pick: Random) -> None:
    w.params.append(Parameter(normal(w.numbers, 4, 2)))
    w.optimizer.param_groups[-1]["params"].append(w.params[-1])


def _add_group(w: World, pick: Random) -> None:
    w.params.append(Parameter(normal(w.numbers, 4, 2)))
    w.optimizer.add_param_group({"params": [w.params[-1]], "lr": 0.5})


def _pop(w: World, pick: Random) -> None:
    w.optimizer.param_groups[-1]["params"].pop()


def _repeat(w: World, pick: Random) -> None:
    w.optimizer.param_groups[-1]["params"].append(w.params[0])


def _intruder(thing: Any) -> Callable[[World, Random], None]:
    def mutate(w: World, pick: Random) -> None:
        w.optimizer.param_groups[-1]["params"].append(thing)

    return mutate


def _without(name: str) -> Callable[[World, Random], None]:
    def mutate(w: World, pick: Random) -> None:
        del w.optimizer.param_groups[-1][name]

    return mutate


GROUPS: dict[str, Callable[[World, Random], None]] = {
    "lr a tensor": _setting("lr", torch.tensor(0.25)),
    "lr a tensor of one": _setting("lr", torch.tensor([0.25])),
    "lr a tensor of two": _setting("lr", torch.tensor([0.25, 0.5])),
    "lr a string": _setting("lr", "0.1"),
    "lr NaN": _setting("lr", float("nan")),
    "lr infinite": _setting("lr", float("inf")),
    "lr negative": _setting("lr", -0.1),
    "lr None": _setting("lr", None),
    "lr complex": _setting("lr", 1j),
    "lr huge": _setting("lr", 1e38),
    "lr 0": _setting("lr", 0.0),
    "lr missing": _without("lr"),
    "betas a list": _setting("betas", [0.5, 0.9]),
    "betas of tensors": _setting("betas", (torch.tensor(0.5), torch.tensor(0.75))),
    "betas mixed": _setting("betas", (0.5, torch.tensor(0.75))),
    "betas of 1": _setting("betas", (1.0, 1.0)),
    "betas beyond": _setting("betas", (1.5, -0.5)),
    "betas of one": _setting("betas", (0.5,)),
    "weight_decay NaN": _setting("weight_decay", float("nan")),
    "weight_decay on": _setting("weight_decay", 0.3),
    "weight_decay negative": _setting("weight_decay", -0.1),
    "eps 0": _setting("eps", 0.0),
    "momentum on": _setting("momentum", 0.5),
    "momentum off": _setting("momentum", 0.0),
    "amsgrad on": _setting("amsgrad", True),
    "centered on": _setting("centered", True),
    "maximize on": _setting("maximize", True),
    "maximize a string": _setting("maximize", "yes"),
    "decoupled_weight_decay on": _setting("decoupled_weight_decay", True),
    "a setting more": lambda w, pick: w.optimizer.param_groups[-1].update(theirs=1),
    "params a tuple": lambda w, pick: w.optimizer.param_groups[-1].update(
        params=tuple(w.optimizer.param_groups[-1]["params"])
    ),
    "params missing": _without("params"),
    "a parameter appended": _append,
    "a parameter twice": _repeat,
    "None appended": _intruder(None),
    "integers appended": _intruder(torch.ones(3, dtype=torch.int64)),
    "a parameter removed": _pop,
    "a group added": _add_group,
    "all groups removed": lambda w, pick: w.optimizer.param_groups.clear(),
}
"""Mutations of a group."""


def load(world: World, pick: Random, key: str, how: str) -> None:
    """Load the optimizer's own checkpoint with a mutation in it."""
    saved = deepcopy(world.optimizer.state_dict())
    state, groups = saved["state"], saved["param_groups"]
    keys = sorted(key for key in state if isinstance(key, int))
    if key:
        if not keys:
            raise NotHere
        entry = state[keys[pick.randrange(len(keys))]]
        spoil(*find_field(entry, key), how)
    else:
        LOADS[how](saved, state, groups, keys)
    world.optimizer.load_state_dict(saved)


def _drop(state: dict[Any, Any], keys: list[int]) -> None:
    if not keys:
        raise NotHere
    del state[keys[0]]


LOADS: dict[str, Callable[[dict[str, Any], dict[Any, Any], list[dict[str, Any]], list[int]], Any]] = {
    "as it is": lambda saved, state, groups, keys: None,
    "without state": lambda saved, state, groups, keys: saved.pop("state"),
    "without groups": lambda saved, state, groups, keys: saved.pop("param_groups"),
    "with empty state": lambda saved, state, groups, keys: state.clear(),
    "without one entry": lambda saved, state, groups, keys: _drop(state, keys),
    "with a number as an entry": lambda saved, state, groups, keys: state.update({0: 5}),
    "with a foreign entry": lambda saved, state, groups, keys: state.update(ema=1),
    "with an entry too many": lambda saved, state, groups, keys: state.update({99: {"step": 1}}),
    "with a group more": lambda saved, state, groups, keys: groups.append(deepcopy(groups[0])),
    "with a parameter more": lambda saved, state, groups, keys: groups[0]["params"].append(77),
    "with a parameter less": lambda saved, state, groups, keys: groups[0]["params"].pop(),
    "with the order turned": lambda saved, state, groups, keys: groups[0]["params"].reverse(),
    "with one key for all": lambda saved, state, groups, keys: groups[0].update(params=[0] * len(groups[0]["params"])),
    "with lr NaN": lambda saved, state, groups, keys: groups[0].update(lr=float("nan")),
    "with lr negative": lambda saved, state, groups, keys: groups[0].update(lr=-1.0),
    "with lr a string": lambda saved, state, groups, keys: groups[0].update(lr="x"),
    "with another lr": lambda saved, state, groups, keys: groups[0].update(lr=0.25),
    "without lr": lambda saved, state, groups, keys: groups[0].pop("lr"),
    "with a setting more": lambda saved, state, groups, keys: groups[0].update(theirs=1),
    "with groups of None": lambda saved, state, groups, keys: saved.update(param_groups=None),
    "with state of a list": lambda saved, state, groups, keys: saved.update(state=[]),
}
"""Mutations of a whole checkpoint."""
