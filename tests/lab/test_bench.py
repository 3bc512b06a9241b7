"""The benchmark: that it measures what it says. How long anything takes is not tested."""

import json
import math

import pytest
import torch
from typer.testing import CliRunner

from gradstep.cli import app
from gradstep.lab import bench, machine
from gradstep.lab.bench_memory import LOOPS, make_loop
from gradstep.lab.bench_models import count_parameters
from gradstep.lab.bench_report import draw_benchmark, lines, markdown, readme

TINY = (
    bench.Workload("one of 47", bench.tensors(1, 47)),
    bench.Workload("four of 3×2", bench.tensors(4, 3, 2)),
    bench.Workload("one of 64×64", bench.tensors(1, 64, 64), more=2),
)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("length", [0, 16, 48, 16 * 1_001])
@pytest.mark.parametrize("loop", LOOPS, ids=str)
def test_the_memory_kernel_adds_once_everywhere(threads, length, loop):
    p, g, m, v = (torch.randn(length) for _ in range(4))
    before = [t.clone() for t in (p, g, m, v)]
    go = make_loop(p, g, m, v, loop, threads=threads)
    go()
    assert torch.equal(g, before[1])
    for now, old in zip((p, m, v), (before[0], *before[2:])):
        assert torch.equal(now, old + g)
    go()
    assert torch.equal(p, (before[0] + g) + g)


@pytest.mark.parametrize("loop", LOOPS, ids=str)
def test_the_memory_kernel_stays_inside_its_arrays(loop):
    wide = [torch.zeros(64) for _ in range(4)]
    p, g, m, v = (t[16:48] for t in wide)
    g.fill_(1)
    make_loop(p, g, m, v, loop, threads=2)()
    for t in wide:
        assert t.sum() == 32
        assert t[16:48].sum() == 32


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ([torch.zeros(17)] * 4, "multiple of 16"),
        ([torch.zeros(16), torch.zeros(32), torch.zeros(16), torch.zeros(16)], "one length"),
        ([torch.zeros(16, dtype=torch.float64)] * 4, "float32"),
        ([torch.zeros(32)[::2]] * 4, "contiguous"),
    ],
)
def test_the_memory_kernel_refuses_what_it_cannot_do(tensors, says):
    with pytest.raises(ValueError, match=says):
        make_loop(*tensors)


@pytest.mark.parametrize(
    ("work", "parameters", "tensors"),  # as published: GPT-2 124.4 M, torchvision's models by its documentation
    [
        (bench.GPT2_WORK, 124_439_808, 148),
        (bench.RESNET, 25_557_032, 161),
        (bench.VIT, 86_567_656, 152),
        (bench.BLOCKS, 85_054_464, 144),
        (bench.LARGE_WORK, 25_000_000, 1),
        (bench.MANY_WORK, 2_000 * 64 * 64, 2_000),
    ],
)
def test_models_have_the_published_number_of_parameters(work, parameters, tensors):
    assert (count_parameters(work.shapes), len(work.shapes)) == (work.parameters, tensors) == (parameters, tensors)


def test_every_case_and_rival_is_measured():
    ticks: list[str] = []
    chosen = [*bench.cases(TINY), *bench.rule_cases(bench.rule_names("all"), TINY[0])]
    results = bench.run_cases(chosen, 2, ticks.append)
    assert [row.title for row in results.rows] == [case.title for case in chosen]
    assert len(ticks) == sum(bench.repetitions(case, 2) for case in chosen)
    first, *_ = results.rows
    assert set(first.seconds) == {*bench.MEMORY, bench.OURS, bench.OURS_8BIT, bench.TORCH_FUSED}
    for row, case in zip(results.rows, chosen):
        assert set(row.seconds) == set(case.rivals)
        assert {len(times) for times in row.seconds.values()} == {bench.repetitions(case, 2)}
        assert row.median(bench.OURS)
    names = {"sgd", "asgd", "rprop", "adagrad", "adadelta", "rmsprop", "adam", "adamax", "nadam", "radam"}
    assert {row.title.split(",")[0].lower() for row in results.rows if "AdamW" not in row.title} == names


def test_who_takes_part_where():
    """8-bit state on the models, torch's slower implementations on two works, loops over memory on the first."""
    by_title = {case.title: set(case.rivals) for case in bench.cases()}
    assert by_title[f"AdamW, {bench.GPT2_WORK.title}"] == {
        *bench.MEMORY, bench.OURS, bench.OURS_8BIT, bench.OURS_NAMED, bench.TORCH_FUSED
    }  # fmt: skip
    assert by_title[f"AdamW, {bench.SMALL_WORK.title}"] == {bench.OURS, bench.TORCH_FUSED}
    every = {title for title, rivals in by_title.items() if bench.TORCH_DEFAULT in rivals}
    assert every == {f"AdamW, {work.title}" for work in (bench.RESNET, bench.MANY_WORK)}
    clipped = {f"AdamW and clipping, {work.title}" for work in (bench.GPT2_WORK, bench.MANY_WORK, bench.LARGE_WORK)}
    assert {title for title in by_title if "clipping" in title} == clipped


def test_rivals_do_the_same_work():
    """Each step of a case moves the parameters as gradstep's own does, so that times compare like with like."""
    work = TINY[1]
    for case in [*bench.cases((work, work)), *bench.rule_cases(bench.rule_names("all"), work)]:
        moved = {}
        for name, build in case.rivals.items():
            if name not in bench.MEMORY:
                params = work.make()
                build(params)()
                moved[name] = torch.cat([p.detach().ravel() for p in params])
                assert not torch.equal(moved[name], torch.cat([p.detach().ravel() for p in work.make()]))
        for other in moved.values():
            torch.testing.assert_close(other, moved[bench.OURS])


def test_medians_ratios_and_quartiles():
    row = bench.CaseResult("title", 1, 1, {"gradstep": [2.0, 9.0, 1.0], "torch fused": [5.0, 3.0, 30.0]})
    assert row.median("gradstep") == 2.0
    assert row.ratio("torch fused") == 2.5
    assert row.quartiles("torch fused") == ((1 / 3 + 2.5) / 2, (2.5 + 30) / 2)  # of 5/2, 3/9 and 30/1
    assert row.median("torch default") is None
    assert row.ratio("torch default") is None
    assert row.quartiles("torch default") is None
    assert row.memory_share() is None


def test_the_share_of_memory_speed_is_of_the_fastest():
    seconds = {bench.OURS: [2.0], bench.TORCH_FUSED: [3.0], bench.MEMORY[0]: [4.0], bench.MEMORY[3]: [1.5]}
    assert bench.CaseResult("title", 1, 1, seconds).memory_share() == 0.75
    assert bench.CaseResult("title", 1, 1, {**seconds, bench.TORCH_FUSED: [1.0]}).memory_share() == 0.5


def results_of(**seconds):
    row = bench.CaseResult(
        "AdamW, one tensor", 1, 25, {name.replace("_", " "): times for name, times in seconds.items()}
    )
    machine = {"processor": "P", "cores": "4", "torch threads": "2", "torch": "2"}
    return bench.BenchResults(machine, "2026-01-01", 0.1, [row], ["a kernel: 1 stream"])


def test_the_results_are_read_back_and_shown(tmp_path):
    results = results_of(gradstep=[0.02], torch_fused=[0.026], torch_default=[0.2])
    results.rows[0].seconds.update({bench.MEMORY[1]: [0.019], bench.OURS_8BIT: [0.01]})
    results.save(tmp_path / "new" / "bench.json")
    assert bench.BenchResults.load_from(tmp_path / "new" / "bench.json") == results
    eight, full = markdown(results).splitlines()[2:]
    assert eight == (
        "| AdamW, 8-bit state, one tensor | 10.0 ms | 26.0 ms | – | 200 ms | 2.60× (2.60 to 2.60) | – | 20.0× | – |"
    )
    assert full == (
        "| AdamW, float32, one tensor | 20.0 ms | 26.0 ms | – | 200 ms | 1.30× (1.30 to 1.30) | – | 10.0× | 95.0 % |"
    )
    drawn = draw_benchmark(results).file()
    for word in ("memory speed", "8-bit state", "26.0 ms, 1.30×", "AdamW, one tensor"):
        assert word in drawn
    text = readme([results, results_of(gradstep=[0.02], torch_fused=[0.02])])
    assert text.startswith("Measured on: P, 4 cores, 2 threads, torch 2, 2026-01-01; P, 4 cores, 2 threads, torch 2, ")
    assert "| 8-bit state, one tensor | 2.60× (2.60 to 2.60), 10.0 ms | – |\n" in text


def test_8_bit_state_leads_and_a_single_matrix_is_last():
    titles = ["AdamW, one", f"AdamW, {bench.LARGE_WORK.title}", "AdamW and clipping, one", "AdamW, two"]
    rows = [bench.CaseResult(title, 1, 1, {bench.OURS: [1.0], bench.TORCH_FUSED: [1.0]}) for title in titles]
    rows[3] = bench.CaseResult(titles[3], 1, 1, {bench.OURS: [1.0], bench.OURS_8BIT: [1.0], bench.TORCH_FUSED: [1.0]})
    shown = [(ours, row.title) for ours, row in lines(bench.BenchResults({}, "", None, rows, []))]
    assert shown == [
        (bench.OURS_8BIT, "AdamW, two"), (bench.OURS, "AdamW, one"), (bench.OURS, "AdamW, two"),
        (bench.OURS, "AdamW and clipping, one"), (bench.OURS, f"AdamW, {bench.LARGE_WORK.title}"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fused", "words"), [(0.0205, "parity, 1.02×"), (0.0195, "parity, 0.97×"), (0.0208, "1.04×"), (0.0192, "0.96×")]
)
def test_parity_is_called_parity(fused, words):
    line = readme([results_of(gradstep=[0.02], torch_fused=[fused])]).splitlines()[-1]
    assert f"| {words} (" in line


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "WORKS", TINY)
    json_file, chart = tmp_path / "bench.json", tmp_path / "bench.svg"
    words = ["bench", "--quick", "--rules", "sgd", "--json", str(json_file), "--chart", str(chart)]
    ran = CliRunner().invoke(app, words, env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
    assert ran.exit_code == 0, ran.output
    for word in ("AdamW, 8-bit state, one of 47", "AdamW and clipping", "SGD, momentum 0.9", str(chart)):
        assert word in ran.output
    rows = json.loads(json_file.read_text(encoding="utf-8"))["rows"]
    assert all(math.isfinite(s) for row in rows for times in row["seconds"].values() for s in times)
    assert chart.is_file()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--rules", "adamv"], "adamv"),
        (["--rules", "lion"], "lion"),
        (["--chart", "x.xyz"], ".svg or .html"),
        (["--repeat", "0"], "--repeat"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_measured(words, says):
    refused = CliRunner().invoke(app, ["bench", *words], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
    assert refused.exit_code == 2
    assert says in refused.output


def test_neighbours_do_not_count_our_own_work(tmp_path, monkeypatch):
    stat = tmp_path / "stat"
    monkeypatch.setattr(machine, "STAT", stat)
    assert machine.OtherPrograms().share() is None  # not Linux
    stat.write_text("cpu  0 0 0 0 0 0 0 0 0 0\ncpu0 0", encoding="ascii")
    others = machine.OtherPrograms()
    stat.write_text("cpu  0 0 0 900000 900000 0 0 0 900000 0\ncpu0 0", encoding="ascii")
    assert others.share() == 0  # idle, waiting, guests
    stat.write_text("cpu  900000 0 0 0 0 0 0 0 0 0\ncpu0 0", encoding="ascii")
    assert others.share() == 1
