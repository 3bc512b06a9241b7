"""From records to places, colours, curves and words."""

from dataclasses import replace

import pytest

from gradstep.lab.report import CONTENDER_COLOURS, SPARE, colours
from gradstep.lab.results import ContenderEntry, CurvePoint, RaceHeader, RaceResults, RunSummary
from gradstep.lab.standings import curve, judge_race, list_columns, standings
from gradstep.lab.tasks import TASKS


def entry(name: str, **settings: str) -> ContenderEntry:
    return ContenderEntry(" ".join([name, *settings.values()]), name, settings)


def results() -> RaceResults:
    header = RaceHeader("digits", (entry("adam"), entry("sgd")), 10, (0, 1), 100, "", "", {})

    def summary(contender: str, seed: int, loss: float | None, step: float, **rest) -> RunSummary:
        status = rest.pop("status", "finished")
        return RunSummary("digits", contender, seed, status, 10, loss, 0.5, 1.0, step, step / 4, 800, 100)

    points = [
        CurvePoint("digits", "adam", seed, step, step * 0.1, None, loss)
        for seed, losses in enumerate(([4.0, 2.0], [4.0, 1.0]))
        for step, loss in zip((0, 10), losses)
    ]
    return RaceResults(
        header,
        points,
        [
            summary("adam", 0, 2.0, 0.2),
            summary("adam", 1, 1.0, 0.4),
            summary("sgd", 0, 0.5, 0.1),
            summary("sgd", 1, None, 0.1, status="diverged"),
        ],
    )


def test_standings_take_seeds_together_and_put_the_diverged_last():
    adam, sgd = standings(results())
    assert (adam.loss, adam.spread) == (1.5, 1.0)
    assert adam.step == pytest.approx(0.3)
    assert adam.share == pytest.approx(0.25)
    assert (adam.bytes_per_parameter, adam.status) == (8.0, "finished")
    assert (sgd.loss, sgd.diverged, sgd.status) == (None, True, "diverged at step 10")


def raced(**losses: tuple[float | None, ...]) -> RaceResults:
    """A race by the last losses of its contenders, seed by seed; None has diverged."""
    seeds = tuple(range(len(next(iter(losses.values())))))
    summaries = [
        RunSummary(
            "digits", name, s, "diverged" if loss is None else "finished", 10, loss, 0.5, 1.0, 0.1 + s, 0.05, 8, 1
        )
        for name, row in losses.items()
        for s, loss in enumerate(row)
    ]
    return RaceResults(RaceHeader("digits", tuple(map(entry, losses)), 10, seeds, 100, "", "", {}), [], summaries)


@pytest.mark.parametrize(
    ("losses", "winner", "sentence"),
    [
        (
            {"adam": (0.2, 0.3, 0.25), "sgd": (0.1, 0.2, 0.15)},  # 0.1 ahead at every seed, though the spreads overlap
            "sgd",
            "sgd wins: loss 0.150 ± 0.050 after 10 steps, 40 % lower than adam (0.250 ± 0.050), ahead at all 3",
        ),
        ({"adam": (0.2, 0.3, 0.1), "sgd": (0.1, 0.2, 0.15)}, None, "Too close to call after 10 steps, at 3 seeds"),
        # Ahead at every seed, by 0.01, 0.01 and 0.4: 0.14 on average, varying by 0.23.
        ({"adam": (0.11, 0.21, 0.55), "sgd": (0.1, 0.2, 0.15)}, None, "Too close to call"),
        ({"adam": (2.0,), "sgd": (1.0,)}, None, "with one seed the noise is not known. Lowest is sgd, loss 1.000"),
        (
            {"adam": (None, 0.1), "sgd": (1.0, 1.1)},
            "sgd",
            "sgd wins: loss 1.050 ± 0.050 after 10 steps; no other",
        ),
        ({"adam": (None, None), "sgd": (None, None)}, None, "nobody arrived"),
        ({"adam": (1.0, 1.1), "sgd": (0.1, 0.11)}, "sgd", "10.0 times lower than adam"),
        ({"adam": (1.0, 1.1), "sgd": (1e-9, 1e-9)}, "sgd", "over 1,000 times lower than adam"),
    ],
)
def test_a_winner_is_ahead_beyond_the_noise(losses, winner, sentence):
    judged = judge_race(raced(**losses))
    assert judged.winner == winner
    assert sentence in judged.sentence


def test_an_interrupted_race_has_no_winner():
    race = raced(adam=(0.2, 0.3), sgd=(0.1, 0.2))
    race.summaries[-1] = replace(race.summaries[-1], status="interrupted")
    assert judge_race(race).winner is None
    assert "interrupted" in judge_race(race).sentence


def test_times_that_overlap_are_not_bold():
    table = standings(raced(adam=(0.2, 0.3), sgd=(0.1, 0.2)))
    (step,) = [column for column in list_columns(TASKS["digits"], "sgd") if column.title == "step"]
    assert step.best(table) == [False, False]
    assert step.text(table[0]) == "600 ± 500 ms"


def test_a_curve_is_the_mean_over_seeds_between_least_and_greatest():
    course = curve(results(), "adam", lambda point: point.loss)
    assert (course.steps, course.mean, course.low, course.high) == (
        [0, 10],
        [4.0, 1.5],
        [4.0, 1.0],
        [4.0, 2.0],
    )


def test_the_best_of_a_column_is_marked_unless_all_are_alike():
    table = standings(results())
    best = {column.title: column.best(table) for column in list_columns(TASKS["digits"], None)}
    assert best["loss"] == [False, False], "nobody has won"
    assert best["step"] == [False, True], "0.1 at both seeds against 0.2 and 0.4"
    assert best["state"] == [False, False]


def test_colours_are_one_for_each_contender_and_shared_with_torchs_own_class():
    entries = [entry("adamw", lr="1"), entry("torch.adamw", lr="1"), entry("adamw", lr="2"), entry("own")]
    chosen = colours(entries)
    assert chosen["adamw 1"] == chosen["torch.adamw 1"] == CONTENDER_COLOURS["adamw"]
    assert [chosen["adamw 2"], chosen["own"]] == list(SPARE[:2])
    assert len(set(CONTENDER_COLOURS.values()) | set(SPARE)) == len(CONTENDER_COLOURS) + len(SPARE)
