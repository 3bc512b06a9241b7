"""The notebooks: valid, without the solution, and they run."""

import json

import pytest

from gradstep.learn.checking import CHALLENGES
from gradstep.learn.lesson import FRAMEWORKS
from gradstep.learn.notebook import make_challenge, write

nbformat = pytest.importorskip("nbformat")


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("challenge", CHALLENGES.values(), ids=CHALLENGES)
def test_valid_and_complete(challenge, framework):
    made = make_challenge(challenge, framework)
    nbformat.validate(nbformat.from_dict(made))
    text = json.dumps(made, ensure_ascii=False)
    lesson = challenge.lesson
    for part in (
        lesson.text,
        lesson.code[framework].skeleton.rstrip(),
        *lesson.hints,
        *(q.why for q in lesson.questions),
    ):
        assert json.dumps(part, ensure_ascii=False)[1:-1] in text
    solution = set(lesson.code[framework].solution.splitlines()) - set(lesson.code[framework].skeleton.splitlines())
    assert not any(line in cell["source"].splitlines() for cell in made["cells"] for line in solution if line.strip())


def test_it_is_not_written_over(tmp_path):
    file, made = write(CHALLENGES["sgd"], "numpy", tmp_path / "new")
    assert made
    file.write_text("mine")
    assert write(CHALLENGES["sgd"], "numpy", tmp_path / "new") == (file, False)
    assert file.read_text() == "mine"


def executed(name, framework, source):
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    made = nbformat.from_dict(make_challenge(CHALLENGES[name], framework))
    made.cells[2].source = source
    nbclient.NotebookClient(made, timeout=120, kernel_name="python3").execute()
    return made.cells


def printed(cell):
    return "".join(output.get("text", "") for output in cell.outputs)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # the notebook client's own
@pytest.mark.parametrize(("name", "framework"), [("adamw", "numpy"), ("schedule", "torch")])
def test_it_runs(name, framework):
    code = CHALLENGES[name].lesson.code[framework]
    cells = executed(name, framework, code.solution)
    assert "PASSED" in printed(cells[4])
    if name == "adamw":
        assert any("0.49989995" in printed(cell) for cell in cells if cell.cell_type == "code")
        pictures = [o for cell in cells if cell.cell_type == "code" for o in cell.outputs if "data" in o]
        assert sum("image/svg+xml" in picture.data for picture in pictures) == 2
    assert "FAILED" in printed(executed(name, framework, code.skeleton)[4])
