"""Access patterns: they give the same bits, and the fastest is chosen by measuring."""

import os
import subprocess
import sys
import threading
from array import array

import pytest
import torch

import gradstep
from gradstep.engines import fused
from gradstep.engines.fused import job, launcher
from gradstep.engines.fused.launcher import AccessPattern, CompiledKernel, Selection, access_report, patterns
from tests.training import assert_same, give, leaves, normal

LENGTHS = [(50_000,), (7,), (64, 64), (100, 99), (16_384 * 2 + 5,), (0,)]
START = [normal(*shape, seed=i) for i, shape in enumerate(LENGTHS)]
DEFAULT = AccessPattern(1, 160)


@pytest.fixture
def kernels_with(monkeypatch):
    """Compile kernels anew, with a pattern set by the environment variable."""

    def use(text):
        monkeypatch.setenv(launcher.VARIABLE, text)
        monkeypatch.setattr(fused, "_kernels", {})

    return use


@pytest.fixture
def measured(monkeypatch):
    """Select patterns for launches of any size, from nothing."""
    monkeypatch.setattr(launcher, "LARGE", 0)
    monkeypatch.setattr(launcher, "_selections", {})


def stepped(kind, **options):
    """A few clipped and watched steps: the optimizer, with every norm and statistic on the way."""
    params = leaves(START)
    optimizer = kind(params, **options)
    seen = []
    for t in range(3):
        give(params, [normal(*p.shape, seed=t + i) for i, p in enumerate(params)])
        optimizer.watch = "groups" if t == 2 else None
        optimizer.step(max_grad_norm=1.0)
        seen.append(optimizer.last_step.grad_norm)
    return optimizer, [*seen, optimizer.last_step.statistics.table.tobytes()]


@pytest.mark.parametrize(
    ("kind", "options"),
    [(gradstep.AdamW, {}), (gradstep.AdamW, {"state": "8bit"}), (gradstep.Lion, {"state": "bfloat16"})],
)
def test_the_bits_do_not_depend_on_the_pattern(kind, options, kernels_with):
    results = []
    for text in ("1,0", "2,160", "4,17"):
        kernels_with(text)
        results.append(stepped(kind, **options))
    for optimizer, seen in results[1:]:
        assert seen == results[0][1]
        assert_same(optimizer, results[0][0])


def test_the_bits_do_not_depend_on_measuring(measured):
    """Every step takes another pattern here, and the numbers are those of the default."""
    optimizer, seen = stepped(gradstep.AdamW)
    assert access_report()
    launcher.LARGE = 1 << 60
    other, others = stepped(gradstep.AdamW)
    assert seen == others
    assert_same(optimizer, other)


KERNEL = CompiledKernel(0, "AdamW of float32", patterns())


def selection(times, rounds=launcher.ROUNDS):
    """A selection whose launches take these times, by pattern; each pattern's i-th launch its i-th."""
    made = Selection(KERNEL, 2, 21)
    made.add(made.next(), 1e9, 1_000_000)  # cold: not counted
    for _ in range(rounds * len(KERNEL.patterns)):
        pattern = made.next()
        made.add(pattern, times(pattern, len(made.times[pattern])), 1_000_000)
    return made


def test_the_default_is_the_plainest_pattern():
    assert KERNEL.patterns[0] == DEFAULT
    assert set(KERNEL.patterns) == {AccessPattern(s, p) for s in (1, 2, 4) for p in (0, 160)} | {AccessPattern(1, 512)}


def test_each_pattern_is_measured_as_often_and_the_fastest_stays():
    fast = AccessPattern(4, 0)
    made = selection(lambda pattern, i: 1.0 if pattern == fast else 2.0)
    assert {len(times) for times in made.times.values()} == {launcher.ROUNDS}
    assert made.chosen == made.next() == fast
    assert made.time(fast) == 1e-6
    assert made.time(DEFAULT) == 2e-6


def test_no_choice_before_every_pattern_was_measured_often_enough():
    made = selection(lambda *_: 1.0, rounds=launcher.ROUNDS - 1)
    assert made.chosen is None
    assert "still measured" in str(made)


def test_the_default_stays_where_another_is_hardly_faster():
    assert selection(lambda pattern, _: 1.0 if pattern == DEFAULT else 0.985).chosen == DEFAULT
    assert selection(lambda pattern, _: 1.0 if pattern == DEFAULT else 0.975).chosen != DEFAULT


def test_interrupted_launches_and_one_lucky_one_do_not_decide():
    """Five of seven launches of the fastest pattern are disturbed; one of the slowest is wrongly short."""
    fast, slow = AccessPattern(2, 160), AccessPattern(4, 160)

    def time(pattern, i):
        if pattern == fast:
            return 1.0 if i in {2, 5} else 9.0
        return 0.1 if pattern == slow and i == 3 else 2.0

    assert selection(time).chosen == fast


def test_the_order_of_patterns_differs_between_rounds():
    """Optimizers that take turns would else be measured with one pattern each."""
    taken: list[AccessPattern] = []

    def time(pattern, _):
        taken.append(pattern)
        return 1.0

    selection(time)
    n = len(KERNEL.patterns)
    rounds = [tuple(taken[i : i + n]) for i in range(0, len(taken), n)]
    assert all(set(one) == set(KERNEL.patterns) for one in rounds)
    assert len(set(rounds)) > n // 2


def test_small_launches_and_kernels_with_one_pattern_are_not_measured():
    assert launcher.selection_for(KERNEL, launcher.LARGE - 1, 2) is None
    assert launcher.selection_for(CompiledKernel(0, "", (DEFAULT,)), launcher.LARGE, 2) is None


def test_each_kernel_size_and_number_of_threads_has_its_own_selection(measured):
    other = CompiledKernel(1, "", patterns())
    keys = [(KERNEL, 2**20, 2), (KERNEL, 2**21, 2), (KERNEL, 2**20, 1), (other, 2**20, 2)]
    made = [launcher.selection_for(*key) for key in keys]
    assert len({id(one) for one in made}) == len(keys)
    assert launcher.selection_for(KERNEL, 2**21 - 1, 2) is made[0]
    assert access_report() == made


def test_a_running_program_chooses_and_tells(measured):
    p = torch.ones(40_000, requires_grad=True)
    p.grad = torch.ones(40_000)
    optimizer = gradstep.AdamW([p])
    assert not launcher.measuring()
    optimizer.step()
    assert launcher.measuring()
    (made,) = access_report()
    for _ in range(launcher.ROUNDS * len(made.kernel.patterns)):
        optimizer.step()
    assert not launcher.measuring()
    assert made.chosen in made.kernel.patterns
    line = str(made)
    assert line.startswith(
        "AdamW of float32 (exp_avg float32, exp_avg_sq float32), 0.0328 to 0.0655 million elements, 1 "
    )
    assert f": {made.chosen} (" in line


def test_threads_that_step_at_once_come_to_a_choice(measured):
    start = threading.Barrier(4)

    def work(i):
        p = torch.ones(40_000, requires_grad=True)
        p.grad = torch.ones(40_000)
        optimizer = gradstep.SGD([p], lr=1.0)
        start.wait()
        for _ in range(30):
            optimizer.step()
        results[i] = p.detach()

    results: dict[int, torch.Tensor] = {}
    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for i in range(4):
        assert torch.equal(results[i], torch.full((40_000,), -29.0))
    (made,) = access_report()
    assert made.chosen in made.kernel.patterns


def test_a_set_pattern_is_taken_and_nothing_is_measured(measured, kernels_with, monkeypatch):
    kernels_with("2,32")
    jobs: list[tuple[int, ...]] = []

    def recorded(kind, numbers):
        jobs.append(numbers)
        return array(kind, numbers)

    monkeypatch.setattr(launcher, "array", recorded)
    stepped(gradstep.AdamW)
    places = [job.FIELDS.index(name) for name in ("streams", "prefetch")]
    assert {tuple(numbers[place] for place in places) for numbers in jobs} == {(2, 32), (1, 32)}  # 1 where watched
    assert access_report() == []
    assert patterns() == (AccessPattern(2, 32),)
    assert patterns((1,)) == (AccessPattern(1, 32),)


@pytest.mark.parametrize("text", ["3,160", "0,0", "1,-1", "1,4097", "1", "1,2,3", "fast", "1.5,0"])
def test_a_variable_that_names_no_pattern_is_refused_before_anything_changes(text, kernels_with):
    p = torch.ones(100, requires_grad=True)
    p.grad = torch.ones(100)
    optimizer = gradstep.AdamW([p])
    kernels_with(text)
    with pytest.raises(ValueError, match=r'Invalid GRADSTEP_ACCESS: .* for example "1,160"'):
        optimizer.step()
    assert torch.equal(p, torch.ones(100))
    kernels_with("")
    optimizer.step()
    assert optimizer.state[p]["step"] == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="os.fork is POSIX only")
def test_a_forked_child_goes_on_measuring():
    code = """
import os, torch, gradstep
from gradstep.engines.fused import launcher
launcher.LARGE = 0
p = torch.ones(70_000, requires_grad=True)
p.grad = torch.ones(70_000)
optimizer = gradstep.SGD([p], lr=1.0)
for _ in range(10):
    optimizer.step()
child = os.fork()
for _ in range(40):
    optimizer.step()
assert p[0] == -49 and p[-1] == -49, p
(selection,) = launcher.access_report()
assert selection.chosen is not None
if child:
    _, status = os.waitpid(child, 0)
    assert status == 0, status
    print("right")
else:
    os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False)
    assert done.stdout.strip() == "right", done.stderr
