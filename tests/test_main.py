"""The command `gradstep`: where it starts, and what it says when its libraries are not installed."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import gradstep
from gradstep import __main__
from gradstep.monitor.lines import encode_entry
from gradstep.monitor.record import Group, Header


def test_version_is_the_installed_packages():
    """An editable installation has the version of the day it was made; `make` renews it when the version changes."""
    installed = metadata.distribution("gradstep")
    if Path(str(installed.locate_file("gradstep/__init__.py"))) != Path(gradstep.__file__):
        pytest.skip("gradstep runs from its source; tests/tools/test_dist.py compares what is built from it")
    assert installed.version == gradstep.__version__


def test_the_version_needs_none_of_the_extra_libraries():
    code = (
        "import sys; sys.modules['typer'] = None; sys.argv[1:] = ['--version']; "
        "import gradstep.__main__ as m; sys.exit(m.main())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == f"gradstep {gradstep.__version__}\n"


@pytest.mark.parametrize("json", [False, True])
def test_the_doctor_needs_none_of_the_extra_libraries(tmp_path, json):
    file = tmp_path / "run.jsonl"
    groups = (Group("group 0", {"lr": 1e-3, "weight_decay": 0.01}),)
    file.write_text(encode_entry(Header("Adam", "torch", None, groups, ())) + "\n", encoding="utf-8")
    words = ["doctor", str(file), *["--json"] * json]
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('typer', 'rich', 'torch'))); "
        f"sys.argv[1:] = {words!r}; import gradstep.__main__ as m; sys.exit(m.main())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1, run.stderr
    assert "Adam where AdamW was meant" in run.stdout


def test_script_entry_point_is_main():
    (script,) = (e for e in metadata.entry_points(group="console_scripts") if e.name == "gradstep")
    assert script.load() is __main__.main


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_missing_library_is_named_with_the_remedy(missing):
    # None in sys.modules makes `import missing` raise ModuleNotFoundError, as where it is not installed.
    code = f"import sys; sys.modules[{missing!r}] = None; import gradstep.__main__ as m; sys.exit(m.main())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert f"'{missing}'" in run.stderr
    assert 'pip install "gradstep[lab]"' in run.stderr
    assert "Traceback" not in run.stderr


def test_error_that_is_no_missing_extra_is_not_hidden(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradstep.cli", None)
    with pytest.raises(ModuleNotFoundError):
        __main__.main()


@pytest.mark.parametrize("words", [["schedules", "cosine", "--out", "{file}/a.svg"], ["doctor", "{file}/run.jsonl"]])
def test_a_file_that_cannot_be_is_an_error_and_no_traceback(tmp_path, words):
    (tmp_path / "file").write_text("", encoding="utf-8")
    words = [word.format(file=tmp_path / "file") for word in words]
    run = subprocess.run([sys.executable, "-m", "gradstep", *words], capture_output=True, text=True, check=False)
    assert run.returncode in (1, 2)
    assert "Traceback" not in run.stderr
    assert str(tmp_path / "file") in run.stderr.replace("\n", "").replace("│", "").replace(" ", "")
