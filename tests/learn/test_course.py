"""The course in a folder: files that are never overwritten, hints one by one, and what comes next."""

import pytest

from gradstep.judge import Status, Verdict
from gradstep.learn import course as module
from gradstep.learn.checking import CHALLENGES
from gradstep.learn.course import (
    COURSE_FILE,
    ChallengeWork,
    Course,
    Progress,
    advise,
    grade_answers,
    save_progress,
    split_diagnosis,
)
from gradstep.learn.experiments import EXPERIMENTS

SGD = CHALLENGES["sgd"]
PASSED = Verdict("SGD", "SGD", "torch", Status.PASSED, "It is right.")
CLIMBS = SGD.lesson.code["numpy"].solution.replace("-= self.lr", "+= self.lr")


@pytest.fixture
def course(tmp_path):
    return Course(tmp_path / "lessons")


def test_start_writes_a_text_and_a_skeleton_and_never_again(course):
    made, kept = course.start(SGD, "numpy")
    assert [file.name for file in made] == ["sgd.md", "sgd_numpy.py"]
    assert kept == ()
    assert "p ← p − lr · g" in (course.folder / "sgd.md").read_text("utf-8")
    (course.folder / "sgd_numpy.py").write_text("my work")
    assert course.start(SGD, "numpy") == ((), made)
    assert (course.folder / "sgd_numpy.py").read_text() == "my work"
    assert [file.name for file in course.start(SGD, "torch").made] == ["sgd_torch.py"]


def test_hints_begin_with_the_mistake_and_end_before_the_solution(course):
    course.start(SGD, "numpy")
    assert course.hint(SGD, "numpy").text == SGD.lesson.hints[0]
    course.file(SGD, "numpy").write_text(CLIMBS)
    verdict = course.check(SGD, "numpy")
    assert not verdict.passed
    about = split_diagnosis(verdict)
    assert "climbs" in about[0]
    texts = []
    while (given := course.hint(SGD, "numpy")) is not None:
        texts.append(given.text)
        assert (given.number, given.of) == ((*about, *SGD.lesson.hints).index(given.text) + 1, len(about) + 3)
    assert texts == [*about, *SGD.lesson.hints[1:]]
    assert [hint.text for hint in course.hints(SGD, "numpy")] == [*about, *SGD.lesson.hints]
    solution = SGD.lesson.code["numpy"].solution
    assert not any(line.strip() in text for text in texts for line in solution.splitlines() if "p.data" in line)


def test_the_same_mistake_again_does_not_start_the_hints_again(course):
    course.start(SGD, "numpy")
    course.file(SGD, "numpy").write_text(CLIMBS)
    course.check(SGD, "numpy")
    course.hint(SGD, "numpy")
    course.check(SGD, "numpy")
    assert course.hint(SGD, "numpy").number == 2
    assert course.progress().of("sgd", "numpy").attempts == 2


def test_an_untouched_skeleton_is_no_attempt(course):
    course.start(SGD, "numpy")
    assert not course.check(SGD, "numpy").passed
    assert course.progress().of("sgd", "numpy") == ChallengeWork()
    assert not course.tried(SGD, "numpy")


def test_a_solution_looked_at_is_remembered_and_what_passed_stays_passed(course, monkeypatch):
    course.start(SGD, "numpy")
    monkeypatch.setattr(module, "judge_file", lambda *args, **kwargs: PASSED)
    course.check(SGD, "numpy")
    assert course.tried(SGD, "numpy")
    assert course.solution(SGD, "numpy") == SGD.lesson.code["numpy"].solution
    failed = Verdict("SGD", "SGD", "torch", Status.FAILED, "It is wrong.")
    monkeypatch.setattr(module, "judge_file", lambda *args, **kwargs: failed)
    course.check(SGD, "numpy")
    assert course.progress().of("sgd", "numpy") == ChallengeWork(2, True, ("It is wrong.",), solution_seen=True)


def test_following_the_advice_ends_the_course(course, monkeypatch):
    monkeypatch.setattr(module, "judge_file", lambda *args, **kwargs: PASSED)
    seen: list[str] = []
    while not (command := advise(course.progress(), course)).startswith("gradstep race"):
        assert command not in seen[-1:], "the same advice twice, without getting on"
        seen.append(command)
        _, _, act, name, *option = command.split()
        if act == "run":
            course.ran(name)
            continue
        challenge = CHALLENGES[name]
        framework = course.framework(option[0].removeprefix("--") if option else None)
        if act == "start":
            course.start(challenge, framework)
        elif act == "check":
            course.check(challenge, framework)
        else:
            course.answer(challenge, [question.letter for question in challenge.lesson.questions])
    starts = [command.split()[3] for command in seen if command.startswith("gradstep learn start")]
    assert starts == [*CHALLENGES, *CHALLENGES]
    progress = course.progress()
    assert len(progress.work) == 2 * len(CHALLENGES)
    assert all(work.passed for work in progress.work.values())
    assert set(progress.answers) == set(CHALLENGES)
    assert set(progress.experiments) == set(EXPERIMENTS)


def test_what_was_begun_comes_before_what_was_not(course):
    course.start(CHALLENGES["adamw"], "torch")
    assert advise(course.progress(), course) == "gradstep learn check adamw"


def test_where_the_course_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(Course.at(None).folder) == "gradstep-course"
    save_progress(tmp_path, Progress())
    assert (tmp_path / COURSE_FILE).exists()
    assert str(Course.at(None).folder) == "."
    assert Course.at(tmp_path / "my course").option == f" --dir '{tmp_path}/my course'"


def test_the_framework_is_the_files_or_the_last(course, tmp_path):
    assert course.framework(None) == "numpy"
    course.start(SGD, "torch")
    assert course.framework(None) == "torch"
    file = tmp_path / "mine.py"
    file.write_text("import numpy")
    assert course.framework(None, file) == "numpy"
    assert course.framework("torch", file) == "torch"


@pytest.mark.parametrize(
    ("letters", "says"),
    [(["a"], "3 questions"), (["a"] * 4, "4 answers"), (["a", "z", "a"], "question 2"), (["a", "", "a"], "question 2")],
)
def test_answers_that_are_none(letters, says):
    with pytest.raises(ValueError, match=says):
        grade_answers(SGD, letters)


def test_answers_may_be_written_in_any_way():
    assert [answer.right for answer in grade_answers(SGD, [" B", "A ", "c"])] == [True, True, True]


def test_the_current_challenge_is_the_one_begun_and_not_passed(course, monkeypatch):
    assert course.challenge(None).name == next(iter(CHALLENGES))
    assert course.challenge("adam").name == "adam"
    course.start(CHALLENGES["sgd"], "numpy")
    course.start(CHALLENGES["momentum"], "numpy")
    assert course.challenge(None).name == "sgd"
    monkeypatch.setattr(module, "judge_file", lambda *args, **kwargs: PASSED)
    course.check(CHALLENGES["sgd"], "numpy", course.file(CHALLENGES["sgd"], "numpy"))
    assert course.challenge(None).name == "momentum"
