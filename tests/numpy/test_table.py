"""What is kept between steps: it must not be noticed, whatever is done to the arrays meanwhile."""

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest

import gradstep.numpy as gn
from gradstep.numpy import table
from gradstep.numpy.table import Table, gather


def normal(shape, seed, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def nothing(optimizer, params):
    return optimizer


def moved(optimizer, params):
    params[0].data = params[0].data.copy()
    return optimizer


def another_array(optimizer, params):
    params[0].data = normal((4, 3), 99)
    return optimizer


def turned(optimizer, params):
    params[0].data = np.asfortranarray(params[0].data)
    return optimizer


def with_gaps(optimizer, params):
    room = np.zeros((4, 6), np.float32)
    room[:, ::2] = params[0].data
    params[0].data = room[:, ::2]
    return optimizer


def wider(optimizer, params):
    params[0].data = params[0].data.astype(np.float64)
    return optimizer


def new_state(optimizer, params):
    optimizer.buffers["exp_avg"][0] = np.ones((4, 3), np.float32)
    return optimizer


def no_state(optimizer, params):
    optimizer.buffers = {}
    return optimizer


def half_a_state(optimizer, params):
    optimizer.buffers["exp_avg_sq"][1] = None
    return optimizer


def read_only_state(optimizer, params):
    optimizer.buffers["exp_avg"][0].flags.writeable = False
    return optimizer


def another_slot(optimizer, params):
    optimizer.amsgrad = True
    return optimizer


def another_rate(optimizer, params):
    optimizer.lr = 0.5
    return optimizer


def first_missing(optimizer, params):
    params[0].grad = None
    return optimizer


def other_gradients(optimizer, params):
    params[0].grad = np.asfortranarray(params[0].grad.astype(np.float64))
    raw = np.zeros(5 * 4 + 1, np.uint8)[1:].view(np.float32)
    raw[...] = params[1].grad
    params[1].grad = raw
    return optimizer


def swapped(optimizer, params):
    params[0].data, params[2].data = params[2].data, params[0].data
    return optimizer


def copied(optimizer, params):
    again = copy.deepcopy(optimizer)
    again.params = params
    return again


def pickled(optimizer, params):
    again = pickle.loads(pickle.dumps(optimizer))
    again.params = params
    return again


MEANWHILE = [nothing, moved, another_array, turned, with_gaps, wider, new_state, no_state, half_a_state]
MEANWHILE += [read_only_state, another_slot, another_rate, first_missing, other_gradients, swapped, copied, pickled]


@pytest.mark.parametrize("meanwhile", MEANWHILE, ids=lambda f: f.__name__)
def test_what_is_kept_changes_no_bit(meanwhile, monkeypatch):
    ends = []
    for kept in (True, False):
        if not kept:
            monkeypatch.setattr(Table, "is_up_to_date", lambda *_: False)
        params = [gn.Parameter(normal(shape, i)) for i, shape in enumerate(((4, 3), (5,), (4, 3)))]
        optimizer = gn.AdamW(params, lr=0.1)
        for step in range(6):
            for i, p in enumerate(params):
                p.grad = normal(p.data.shape, 10 * step + i)
            if step == 3:
                optimizer = meanwhile(optimizer, params)
            optimizer.step()
        ends.append([p.data for p in params] + [b for held in optimizer.buffers.values() for b in held])
    for a, b in zip(*ends, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


def test_it_is_kept(monkeypatch):
    """Else the tests above show nothing."""
    made = []

    def counting(*given):
        made.append(given)
        return gather(*given)

    monkeypatch.setattr("gradstep.numpy.rule_optimizer.gather", counting)
    p = gn.Parameter(normal(8, 0))
    optimizer = gn.AdamW([p])
    for step in range(5):
        p.grad = normal(8, step)
        optimizer.step()
    assert len(made) == 1


def test_an_array_resized_in_place_is_seen():
    w = normal(4, 0).copy()
    p = gn.Parameter(w, grad=np.ones(4, np.float32))
    optimizer = gn.SGD([p], lr=1.0, momentum=0.5)
    optimizer.step()
    w.resize(100_000, refcheck=False)
    p.grad = np.ones(100_000, np.float32)
    with pytest.raises(ValueError, match=r"momentum_buffer of parameter 0 must be an array of shape \(100000,\)"):
        optimizer.step()
    optimizer.buffers = {}
    optimizer.step()
    assert (w[4:] == -1).all()


def test_nothing_is_held():
    p = gn.Parameter(normal((50, 50), 0), grad=normal((50, 50), 1))
    optimizer = gn.AdamW([p])
    for _ in range(2):
        optimizer.step()
    before = [weakref.ref(a) for a in (p.data, p.grad, optimizer.m_buffers[0])]
    p.data, p.grad = p.data.copy(), None
    optimizer.buffers = {}
    gc.collect()
    assert [ref() for ref in before] == [None, None, None]


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (4, 1, 2)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_address_is_numpys_own(shape, dtype):
    x = np.zeros(shape, dtype)
    frozen = x.copy()
    frozen.flags.writeable = False
    for array in (x, x.T, x[..., ::-1] if shape else x, np.zeros((3, *shape), dtype)[1, ...], frozen):
        assert table.address(array) == array.ctypes.data == table.read_layout(array)[0]


def test_the_memory_of_the_same_array_moves():
    """``resize`` there and back leaves the object and its layout as they were, and its memory elsewhere."""
    w, same = np.zeros(64, np.float32), np.zeros(64, np.float32)
    p, q = gn.Parameter(w), gn.Parameter(same)
    moved, still = gn.AdamW([p], lr=0.5), gn.AdamW([q], lr=0.5)
    places, blockers = {w.ctypes.data}, []
    for step in range(4):
        p.grad, q.grad = normal((64,), step), normal((64,), step)
        moved.step()
        still.step()
        w.resize(1_000_000, refcheck=False)
        blockers.append(np.ones(64, np.float32))
        w.resize(64, refcheck=False)
        places.add(w.ctypes.data)
    assert len(places) > 1
    np.testing.assert_array_equal(w, same)
