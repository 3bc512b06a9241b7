"""The `gradstep` command, also as `python -m gradstep`.

The command line and the lab need libraries that the optimizers do not; where they are missing, it says what
to install.
"""

import json
import sys

import gradstep

_EXTRA = frozenset({"rich", "sklearn", "torch", "typer"})
"""Top-level modules that the extra `lab` brings."""


def main() -> int:
    """Run the command line; returns the exit code (2 where a library of the extra `lab` is missing, 1 where a
    file cannot be read or written).
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
    except OSError as error:  # a file that cannot be read or written, or a full disk: nothing that a traceback explains
        print(f"gradstep: {error}", file=sys.stderr)
        return 1
    return 0


def _doctor(words: list[str]) -> int:
    """``gradstep doctor RUN [--json]`` in plain text: on the machine that trains, the extra ``lab`` is seldom there."""
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
    shown = json.dumps(diagnosis.as_dict(), indent=2, ensure_ascii=False) if "--json" in words else str(diagnosis)
    print(shown)
    return diagnosis.exit_code


if __name__ == "__main__":
    sys.exit(main())
