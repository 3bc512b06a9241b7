"""The memory layout of tensors, read anew before every step.

A kernel reads and writes addresses, so they must be valid: a parameter's data may have been moved, resized or cast
since the last step (``model.half()``, pruning, ``p.data = ...``), and gradients are new at every step. Only public
methods of tensors are used: each costs some 50 ns, all together about a microsecond for a parameter with its gradient.
Each property is read for all tensors at once, so that loops and comparisons run in C.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, TypeGuard, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:  # importing it takes a second; a process that has a DTensor has imported it
    from torch.distributed.tensor import DTensor

PLAIN: frozenset[type] = frozenset({Tensor, torch.nn.Parameter})
"""Types with their elements in their own memory; a subclass may keep them elsewhere or give them another meaning."""


@final
@dataclass(frozen=True)
class Layouts:
    """The memory layouts of several tensors: one list for each property, with one entry for each tensor.

    Attributes:
        pointers: address of the first element; 0 without memory.
        shapes, strides: in elements.
        dtypes, devices: torch's.
    """

    pointers: list[int]
    shapes: list[torch.Size]
    strides: list[tuple[int, ...]]
    dtypes: list[torch.dtype]
    devices: list[torch.device]

    @staticmethod
    def of(tensors: Sequence[Tensor]) -> Layouts:
        """Read the layouts of strided tensors.

        Raises:
            RuntimeError: a tensor has no memory (it is sparse, or a wrapper of :mod:`torch.func`).
        """
        return Layouts(
            list(map(Tensor.data_ptr, tensors)),
            [t.shape for t in tensors],
            list(map(Tensor.stride, tensors)),
            [t.dtype for t in tensors],
            [t.device for t in tensors],
        )

    def are_unchanged(self, tensors: list[Tensor]) -> bool:
        """Return whether the tensors have these layouts, and their memory holds their numbers unchanged."""
        return (
            list(map(Tensor.data_ptr, tensors)) == self.pointers
            and [t.shape for t in tensors] == self.shapes
            and list(map(Tensor.stride, tensors)) == self.strides
            and [t.dtype for t in tensors] == self.dtypes
            and [t.device for t in tensors] == self.devices
            and not _hold_other_numbers(tensors)
        )

    def pointers_of_likes(self, tensors: list[Tensor], dtype: torch.dtype) -> list[int] | None:
        """Return the addresses of plain tensors with these shapes, strides and devices; None if a tensor differs.

        Also None if a tensor has no memory, or is negated or conjugated lazily, so that its memory holds other numbers.

        Args:
            tensors: one for each layout; an object that is no tensor (None, say) differs from every layout.
            dtype: the type that all of them must have.
        """
        if not PLAIN.issuperset(map(type, tensors)):
            return None
        try:
            pointers = list(map(Tensor.data_ptr, tensors))
            alike = (
                [t.shape for t in tensors] == self.shapes
                and self._same_places(list(map(Tensor.stride, tensors)))
                and [t.dtype for t in tensors].count(dtype) == len(tensors)
                and [t.device for t in tensors] == self.devices
                and not _hold_other_numbers(tensors)
                and self._have_room(tensors, dtype.itemsize)
            )
        except RuntimeError:  # a tensor has no memory
            return None
        if not alike or (0 in pointers and any(map(lacks_memory, tensors))):
            return None
        return pointers

    def _have_room(self, tensors: list[Tensor], itemsize: int) -> bool:
        """Return whether the storages of tensors of these shapes and strides reach as far as their elements."""
        return all(
            t.untyped_storage().nbytes() >= (t.storage_offset() + reach) * itemsize
            for t, reach in zip(tensors, self._reaches, strict=True)
            if reach
        )

    @cached_property
    def _reaches(self) -> list[int]:
        """Elements from the first of each tensor to the end of its last."""
        return list(map(_reach, self.shapes, self.strides))

    def _same_places(self, strides: list[tuple[int, ...]]) -> bool:
        return strides == self.strides or all(map(same_places, self.shapes, self.strides, strides))

    def select(self, positions: Sequence[int]) -> Layouts:
        """Return the layouts at these positions."""
        return Layouts(
            [self.pointers[i] for i in positions],
            [self.shapes[i] for i in positions],
            [self.strides[i] for i in positions],
            [self.dtypes[i] for i in positions],
            [self.devices[i] for i in positions],
        )


def same_places(shape: Sequence[int], strides: Sequence[int], others: Sequence[int]) -> bool:
    """Return whether two strides put the elements of a shape at the same places; an axis of length 1 does not count.

    >>> same_places((1, 3), (3, 1), (1, 1)), same_places((2, 3), (3, 1), (1, 2))
    (True, False)
    """
    return strides == others or all(size == 1 or a == b for size, a, b in zip(shape, strides, others, strict=True))


def _hold_other_numbers(tensors: Sequence[Tensor]) -> bool:
    """Return whether a tensor is negated or conjugated lazily, so that its memory holds other numbers than its own."""
    return any(map(Tensor.is_neg, tensors)) or any(map(Tensor.is_conj, tensors))


def lacks_memory(tensor: Tensor) -> bool:
    """Return whether a tensor has elements, but no memory for them at an address.

    Examples: torch's symbolic zeros, wrappers of :mod:`torch.func`, and a tensor whose storage was resized to nothing
    (sharded training does so) or to less than its elements need.

    >>> lacks_memory(torch.zeros(3)), lacks_memory(torch.zeros(3).to_sparse()), lacks_memory(torch.zeros(0))
    (False, True, False)
    """
    try:
        storage = tensor.untyped_storage()  # a sparse tensor has none
        if storage.data_ptr() == 0:
            return tensor.numel() > 0
        return storage.nbytes() < tensor.storage_offset() * tensor.element_size() + extent(tensor)
    except RuntimeError:  # torch raises it, or NotImplementedError, which is one, if there is no storage
        return True


def is_freed(tensor: Tensor) -> bool:
    """Return whether a tensor's storage was freed or is smaller than its elements, so that reading them would crash.

    False for subclasses that keep their elements elsewhere (those with a ``__torch_dispatch__``).

    >>> x = torch.zeros(3)
    >>> _ = x.untyped_storage().resize_(0)
    >>> is_freed(x), is_freed(torch.zeros(3))
    (True, False)
    """
    if (
        type(tensor).__torch_dispatch__ != Tensor.__torch_dispatch__
        or tensor.layout != torch.strided
        or tensor.device.type == "meta"
        or not tensor.numel()
    ):
        return False
    try:
        if tensor.data_ptr() == 0:
            return not is_symbolic_zero(tensor)
        needed = tensor.storage_offset() * tensor.element_size() + extent(tensor)
        return tensor.untyped_storage().nbytes() < needed
    except RuntimeError:  # a wrapper of torch.func has no storage
        return False


def is_symbolic_zero(tensor: Tensor) -> bool:
    """Return whether a tensor is one of torch's symbolic zeros, which have no memory; torch has no public test."""
    return tensor._is_zerotensor()


def is_addressable(tensor: Tensor) -> bool:
    """Return whether a kernel can read a tensor's elements at their address: they are in memory, unchanged.

    >>> is_addressable(torch.zeros(3)), is_addressable(torch.zeros(3, dtype=torch.complex64).conj())
    (True, False)
    """
    return (
        type(tensor) in PLAIN
        and not lacks_memory(tensor)
        and not tensor.is_neg()
        and not (tensor.is_complex() and tensor.is_conj())
    )


def extent(tensor: Tensor) -> int:
    """Return the bytes from the first element of a strided tensor to the end of its last."""
    if tensor.is_contiguous():  # the usual case, in a tenth of the time; empty tensors too
        return tensor.nbytes
    return _reach(tensor.shape, tensor.stride()) * tensor.element_size()


def _reach(shape: Sequence[int], strides: Sequence[int]) -> int:
    return 0 if 0 in shape else 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


def find_overlaps(starts: NDArray[np.int64], stops: NDArray[np.int64]) -> list[int]:
    """Return the positions, ascending, of the ranges of addresses that overlap another range.

    Args:
        starts, stops: (n,) the first address of each range, and the one after its last.

    >>> find_overlaps(np.array([100, 40, 90, 300, 45]), np.array([108, 48, 106, 308, 46]))
    [0, 1, 2, 4]
    """
    order = np.argsort(starts, kind="stable")
    first, last = starts[order], np.maximum.accumulate(stops[order])
    with_one_before = np.append(False, first[1:] < last[:-1])[: len(order)]
    with_one_after = np.append(with_one_before[1:], False)[: len(order)]
    # A long range may overlap several ranges that follow it: the first of them marks it.
    return sorted(order[with_one_before | with_one_after].tolist())


def conform_gradient(p: Tensor, g: Tensor, label: str) -> Tensor:
    """Return the gradient in the parameter's memory layout: the gradient itself if it has that layout, else a copy.

    Raises:
        RuntimeError: the gradient is sparse, or its shape, device or kind of number is not the parameter's; or it is a
            tensor subclass that torch cannot copy into a plain tensor; or the parameter is an expanded tensor, which
            cannot be written to.
    """
    if (
        type(g) in PLAIN
        and g.dtype == p.dtype
        and g.shape == p.shape
        and g.stride() == p.stride()
        and g.device == p.device
        and 0 not in g.stride()
        and is_addressable(g)
    ):
        return g  # the usual case, in a quarter of the time
    if p.numel() and any(stride == 0 and size > 1 for stride, size in zip(p.stride(), p.shape, strict=True)):
        raise RuntimeError(f"several elements of {label} share memory (it was expanded): make it a tensor by clone()")
    if g.layout != torch.strided:
        raise RuntimeError(
            f"gradstep's optimizers do not support sparse gradients, and {label} has one ({g.layout}); "
            "use nn.Embedding(sparse=False), or torch.optim.SparseAdam for these parameters"
        )
    if g.shape != p.shape:
        raise RuntimeError(f"the gradient of {label} has shape {tuple(g.shape)}, the parameter {tuple(p.shape)}")
    if g.device != p.device:
        raise RuntimeError(f"the gradient of {label} is on {g.device}, the parameter on {p.device}")
    if g.is_complex() != p.is_complex() or not (g.is_floating_point() or g.is_complex()):
        raise RuntimeError(f"the gradient of {label} is {g.dtype}, the parameter {p.dtype}")
    if is_freed(g):
        raise RuntimeError(
            f"the gradient of {label} has no memory for its {g.numel():,} elements: so there is nothing to read"
        )
    if type(p) not in PLAIN or lacks_memory(p):
        return g  # a torch engine updates such a parameter, and takes any gradient that torch takes
    if is_addressable(g) and same_places(p.shape, p.stride(), g.stride()):
        return g
    try:
        with torch.no_grad():
            copy = torch.empty_like(p, dtype=g.dtype, memory_format=torch.preserve_format)
            copy.copy_(g)  # not "copy = ...": the result may be a subclass, as the gradient is
    except Exception as error:  # a subclass may raise anything
        raise RuntimeError(
            f"the gradient of {label} is a {type(g).__name__}, whose numbers cannot be copied into a tensor: {error}"
        ) from error
    if type(copy) not in PLAIN or lacks_memory(copy):
        raise RuntimeError(
            f"the gradient of {label} is a {type(g).__name__} without memory of its own: "
            "give the parameter a plain tensor as its gradient"
        )
    return copy


def array_of(tensor: Tensor) -> NDArray[Any]:
    """Return a NumPy array that shares the memory of a tensor; bfloat16 as uint16.

    Raises:
        TypeError: the tensor is on a device, whose memory NumPy cannot read.
    """
    tensor = tensor.detach()
    if tensor.numel() == 0:  # it may have no memory
        tensor = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()


def is_dense(tensor: Tensor) -> bool:
    """Return whether the elements fill one stretch of memory, each once, in any order of axes.

    >>> import torch
    >>> is_dense(torch.zeros(2, 3).t()), is_dense(torch.zeros(2, 3)[:, :2]), is_dense(torch.zeros(1).expand(3))
    (True, False, False)
    """
    return _is_dense(tuple(tensor.shape), tensor.stride())


@cache
def _is_dense(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    expected = 1
    for stride, size in sorted((st, si) for st, si in zip(strides, shape, strict=True) if si != 1):
        if stride != expected:
            return 0 in shape
        expected *= size
    return True


# -- distributed parameters -------------------------------------------------------------------------------------------


def is_distributed(tensor: Tensor) -> TypeGuard[DTensor]:
    """Return whether a tensor is torch's DTensor.

    >>> is_distributed(torch.zeros(3))
    False
    """
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local_tensor(tensor: Tensor) -> Tensor:
    """Return the part of a DTensor that this process has, sharing its memory; any other tensor unchanged."""
    if not is_distributed(tensor):
        return tensor
    with torch.no_grad():
        return tensor.to_local()


def holds_flat_shards(groups: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether parameters are flat shards: those of FSDP1 or of DeepSpeed's ZeRO.

    FSDP1 gives an optimizer its ``FlatParameter``, or, with ``use_orig_params=True``, one-dimensional views into it.
    DeepSpeed puts one flat partition into each group, in stage 3 into one group after the other.

    >>> import torch
    >>> holds_flat_shards([{"params": [torch.zeros(3)]}])
    False
    """
    params = [p for group in groups for p in group["params"]]
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")  # before its import there are no shards of it
    if fsdp is not None and _are_of_fsdp(params, fsdp.FullyShardedDataParallel, fsdp.FlatParameter):
        return True
    one_each = all(len(group["params"]) <= 1 for group in groups)
    return bool(params) and one_each and all(p.dim() == 1 for p in params) and "deepspeed" in sys.modules


def _are_of_fsdp(params: Sequence[Tensor], wrapper: type, flat_class: type[Tensor]) -> bool:
    """Return whether one of the parameters is a ``FlatParameter``, or a part of one that exists."""
    if any(isinstance(p, flat_class) for p in params):
        return True
    parts = {p.untyped_storage().data_ptr() for p in params if type(p) is torch.nn.Parameter and p.dim() == 1}
    if not parts or not torch.distributed.is_initialized():  # FSDP1 needs a process group
        return False
    # Nothing leads from a part to its FlatParameter. A part alone is a tensor like any other, and the part of a module
    # with one parameter is not even a view of more. So all objects are looked at, once for a table: 0.4 s for the
    # 300,000 of a process with torch, hence only where a wrapper exists, which takes 0.08 s to find out. Their types
    # are asked, since isinstance() asks the objects, and some (proxies of dead objects, deprecated names) answer with
    # an error or a warning.
    wrappers = [wrapper]
    for cls in wrappers:
        wrappers.extend(cls.__subclasses__())
    if not any(issubclass(type(thing), wrapper) for thing in gc.get_referrers(*wrappers)):
        return False
    tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.nn.Parameter)]
    return any(isinstance(p, flat_class) and p.untyped_storage().data_ptr() in parts for p in tensors)


_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})


def plain_name(name: str) -> str:
    """Return a parameter's name without the prefixes that wrappers of a model add.

    >>> plain_name("_orig_mod.module.layers.0.weight")
    'layers.0.weight'
    """
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)
