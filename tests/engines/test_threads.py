"""Results do not depend on how many threads work, nor on who else is stepping."""

import threading
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gradstep
from gradstep.engines import fused
from gradstep.engines.fused import divide_pieces, divide_tensors, launcher
from gradstep.engines.fused.job import CHUNK, MAX_CHUNK, MIN_CHUNKS
from tests.registry import cases
from tests.training import assert_same, give, leaves, normal, trained

LENGTHS = [200_000, 3, 0, CHUNK, CHUNK + 1, 100, 90, 16, 70_001]
START = [normal(n, seed=n) for n in LENGTHS]
STEPS = [[normal(n, seed=n + t) for n in LENGTHS] for t in (1, 2, 3)]


@pytest.fixture
def thread_count():
    """Set the number of torch's threads for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def clipped(kind, **options):
    """Three clipped steps, with the norm of each."""
    params = leaves(START)
    optimizer = kind(params, **options)
    norms = []
    for grads in STEPS:
        give(params, grads)
        optimizer.step(max_grad_norm=1.0)
        norms.append(optimizer.last_step.grad_norm)
    return optimizer, norms


@pytest.mark.parametrize(("subject", "options"), cases(elementwise=True)[::6])
def test_one_two_and_five_threads(subject, options, thread_count):
    results = []
    for count in (1, 2, 5, 2):
        thread_count(count)
        results.append(clipped(subject.optimizer, **options))
    for optimizer, norms in results[1:]:
        assert norms == results[0][1]
        assert_same(optimizer, results[0][0])


@pytest.mark.parametrize(
    ("elements", "size"),
    [
        (1, CHUNK),
        (2 * CHUNK * MIN_CHUNKS - 1, CHUNK),
        (2 * CHUNK * MIN_CHUNKS, 2 * CHUNK),
        (4 * CHUNK * MIN_CHUNKS, 4 * CHUNK),
        (100 * CHUNK * MIN_CHUNKS, MAX_CHUNK),
    ],
)
def test_chunks_hold_every_element_once_and_are_larger_where_there_are_many(elements, size):
    first = elements // 3 // CHUNK * CHUNK
    pieces = np.array([(4, 0, first), (7, CHUNK, CHUNK + elements - first)])
    work = divide_pieces(pieces)
    assert work.elements == elements
    assert int((work.pieces[:, 2] - work.pieces[:, 1]).max()) == min(size, elements)
    for tensor, start, stop in pieces.tolist():
        mine = [(a, b) for t, a, b in work.pieces.tolist() if t == tensor]
        assert [a for a, _ in mine] + [stop] == [start] + [b for _, b in mine] or start == stop


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.sampled_from([0, 1, 3, 100, 4_096, CHUNK - 1, CHUNK, CHUNK + 1, 70_000]), max_size=80),
    groups=st.lists(st.integers(0, 3), min_size=80, max_size=80),
)
def test_small_tensors_share_chunks_and_each_run_has_one_owner(lengths, groups):
    """By hand: what of each table belongs to what of the next, without gap or overlap, and nothing too large."""
    sizes = np.array(lengths, dtype=np.int64)
    owners = np.array(sorted(groups[: len(lengths)]), dtype=np.int64)
    work = divide_tensors(sizes.tobytes(), owners.tobytes())
    for table, following in ((work.chunks, work.runs), (work.runs, work.pieces)):
        assert [0, *table[:, 1].tolist()] == [*table[:, 0].tolist(), len(following)]
        assert (table[:, 1] > table[:, 0]).all()
    for first, stop, owner in work.runs.tolist():
        assert {int(owners[t]) for t in work.pieces[first:stop, 0]} == {owner}
    seen = [(t, i) for t, start, stop in work.pieces.tolist() for i in (start, stop - 1)]
    assert seen == sorted(seen)
    assert int((work.pieces[:, 2] - work.pieces[:, 1]).sum()) == sum(lengths) == work.elements
    for first, stop in work.chunks.tolist():
        pieces = work.pieces[work.runs[first, 0] : work.runs[stop - 1, 1]]
        assert (pieces[:, 2] - pieces[:, 1]).sum() < 2 * CHUNK
    alone = divide_tensors(sizes.tobytes())
    np.testing.assert_array_equal(alone.pieces, work.pieces)
    assert len(alone.runs) == len(alone.chunks) == len(work.chunks)


@pytest.mark.parametrize("kind", [gradstep.AdamW, gradstep.AdamW8bit, gradstep.SGD])
def test_large_chunks_give_the_same_bits(kind, monkeypatch):
    small, _ = clipped(kind)
    monkeypatch.setattr(fused, "MIN_CHUNKS", 1)
    divide_tensors.cache_clear()
    large, _ = clipped(kind)
    divide_tensors.cache_clear()
    assert_same(large, small)


def test_without_openmp(thread_count, monkeypatch):
    """Python's own threads, as where there is no OpenMP, give the same bits."""
    thread_count(3)
    expected, norms = clipped(gradstep.AdamW)
    used = []
    monkeypatch.setattr(launcher, "_openmp", lambda: used.append(1))
    optimizer, other_norms = clipped(gradstep.AdamW)
    assert used
    assert norms == other_norms
    assert_same(optimizer, expected)


def test_two_python_threads_step_two_optimizers_at_once(thread_count):
    thread_count(2)
    expected = {name: trained(getattr(gradstep, name), START, STEPS * 5)[0] for name in ("AdamW", "SGD", "Lion")}
    results, start = {}, threading.Barrier(len(expected))

    def work(name):
        start.wait()
        results[name], _ = trained(getattr(gradstep, name), START, STEPS * 5)

    workers = [threading.Thread(target=work, args=(name,)) for name in expected]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    for name, optimizer in expected.items():
        assert_same(results[name], optimizer)


def test_many_python_threads_watch_steps_of_the_same_sizes(thread_count):
    """The room that chunks write their statistics to belongs to one step at a time."""
    thread_count(2)
    found: dict[int, list[float]] = {}
    start = threading.Barrier(4)

    def work(i):
        p = torch.full((100_000,), 1.0 + i, requires_grad=True)
        p.grad = torch.ones(100_000)
        optimizer: Any = gradstep.SGD([p], lr=0.0)
        optimizer.watch = "parameters"
        start.wait()
        found[i] = []
        for _ in range(50):
            optimizer.step()
            found[i].append(float(optimizer.last_step.statistics.param_square[0]))

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert found == {i: [100_000 * (1.0 + i) ** 2] * 50 for i in range(4)}


def test_many_python_threads_compile_at_once(thread_count):
    """Eight threads meet rules that no kernel exists for yet."""
    thread_count(2)
    made, start, failures = [], threading.Barrier(8), []

    def work(i):
        kind = gradstep.optimizer(fresh_rule())
        p = torch.zeros(100, requires_grad=True)
        p.grad = torch.ones(100)
        start.wait()
        try:
            kind([p], lr=1.0 + i).step()
        except Exception as error:  # pytest sees no exception of another thread
            failures.append(error)
        made.append((i, p.detach()))

    workers = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert not failures
    for i, p in made:
        assert torch.equal(p, torch.full((100,), -1.0 - i))


def fresh_rule():
    """A rule class that no cache knows."""
    from dataclasses import dataclass

    from gradstep.rules.settings import learning_rate

    @dataclass(frozen=True)
    class Fresh(gradstep.Rule):
        lr: float = learning_rate(0.1)

        def coefficients(self, step, **scalars):
            return {"lr": self.lr}

        @staticmethod
        def update(p, g, s, c):
            return p - c.lr * g

    return Fresh


def test_available_is_at_least_one():
    assert launcher.count_processors() >= 1
