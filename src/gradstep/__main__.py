"""The `gradstep` command, also as `python -m gradstep`.

The command line and the lab need more libraries than the optimizers; if one is missing, the command says what to
install.
"""

import json
import sys

import gradstep

_EXTRA = frozenset({"rich", "sklearn", "torch", "typer"})
"""Top-level modules that the extra `lab` installs."""


def main() -> int:
    """Run the command line and return its exit code.

    The code is 2 if a library of the extra `lab` is missing, 1 if a file cannot be read or written.
    """
    if sys.argv[1:] == ["--version"]:
        print(f"gradstep {gradstep.__version__}")
        return 0
    try:
        from gradstep.cli import app

        app()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRA:
            raise
        if sys.argv[1:2] == ["doctor"] and set(sys.argv[2:]) - {"--json"} and "--help" not in sys.argv:
            return _doctor(sys.argv[2:])
        print(
            f"gradstep: the command line needs '{missing}', which is not installed here.\n"
            'Install it, and all else the command line uses, with: pip install "gradstep[lab]"',
            file=sys.stderr,
        )
        return 2
    except OSError as error:  # an unreadable file or a full disk: a traceback would not help
        print(f"gradstep: {error}", file=sys.stderr)
        return 1
    return 0


def _doctor(words: list[str]) -> int:
    """Run ``gradstep doctor RUN [--json]`` in plain text: training machines often lack the extra ``lab``."""
    from gradstep.monitor.doctor import diagnose

    runs = [word for word in words if word != "--json"]
    if len(runs) != 1 or runs[0].startswith("-"):
        print("Usage: gradstep doctor RUN [--json]", file=sys.stderr)
        return 2
    try:
        diagnosis = diagnose(runs[0])
    except (OSError, ValueError) as error:
        print(f"Cannot read {runs[0]}: {error}", file=sys.stderr)
        return 2
    print(json.dumps(diagnosis.as_dict(), indent=2, ensure_ascii=False) if "--json" in words else diagnosis)
    return diagnosis.exit_code


if __name__ == "__main__":
    sys.exit(main())
