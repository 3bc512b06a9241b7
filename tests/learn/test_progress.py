"""The notes on the progress: private, whole, and no obstacle when damaged."""

import json
import os
import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from gradstep.learn.course import COURSE_FILE, DAMAGED, ChallengeWork, Progress, load_progress, save_progress

FULL = Progress(
    framework="torch",
    work={"adam/torch": ChallengeWork(3, True, ("What", "Look"), 1, 2, True), "sgd/numpy": ChallengeWork()},
    answers={"adam": ("a", "b")},
    experiments=("ravine",),
)


def test_what_is_kept_comes_back(tmp_path):
    save_progress(tmp_path / "new" / "folder", FULL)
    assert load_progress(tmp_path / "new" / "folder") == (FULL, "")


def test_nothing_yet(tmp_path):
    assert load_progress(tmp_path) == (Progress(), "")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="Windows has no permission bits of POSIX")
def test_it_is_its_owners_alone(tmp_path):
    for _ in range(2):
        save_progress(tmp_path, FULL)
        assert stat.S_IMODE((tmp_path / COURSE_FILE).stat().st_mode) == 0o600


def content(**changes):
    return json.dumps({"version": 1, "framework": "numpy", "work": {}, "answers": {}, "experiments": [], **changes})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        content()[:-20],
        content(version=2),
        content(framework="jax"),
        content(framework=None),
        content(work=[]),
        content(work={"sgd/numpy": {"attempts": "many"}}),
        content(work={"sgd/numpy": {"attempts": True}}),
        content(work={"sgd/numpy": {"unknown": 1}}),
        content(work={"sgd/numpy": None}),
        content(answers={"sgd": 1}),
        content(answers={"sgd": [1]}),
        content(experiments="ravine"),
        content(unknown=1),
    ],
)
def test_a_damaged_file_is_put_aside_and_said(tmp_path, text):
    (tmp_path / COURSE_FILE).write_text(text)
    progress, remark = load_progress(tmp_path)
    assert progress == Progress()
    assert DAMAGED in remark
    assert (tmp_path / DAMAGED).read_text() == text
    assert load_progress(tmp_path) == (Progress(), "")


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / COURSE_FILE).write_bytes(b"\xff\xfe\x00")
    assert DAMAGED in load_progress(tmp_path)[1]


@settings(max_examples=40)
@given(some.recursive(some.none() | some.booleans() | some.integers() | some.text(), some.lists))
def test_any_json_is_read_or_put_aside(tmp_path_factory, value):
    folder = tmp_path_factory.mktemp("course")
    (folder / COURSE_FILE).write_text(content(work={"sgd/numpy": {"diagnosis": value}}))
    progress, remark = load_progress(folder)
    good = isinstance(value, list) and all(isinstance(word, str) for word in value)
    assert (remark == "") == good
    assert (progress.work != {}) == good


def test_an_interrupted_write_leaves_the_old_notes(tmp_path, monkeypatch):
    save_progress(tmp_path, FULL)
    monkeypatch.setattr(json, "dumps", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_progress(tmp_path, Progress())
    monkeypatch.undo()
    assert load_progress(tmp_path) == (FULL, "")
    assert [file.name for file in tmp_path.iterdir()] == [COURSE_FILE]
