"""The `gradstep` command, also as `python -m gradstep`.

The command line and the lab need libraries that the optimizers do not; where they are missing, it says what
to install.
"""

import sys

import gradstep

_EXTRA = frozenset({"matplotlib", "plotly", "rich", "sklearn", "torch", "typer"})
"""Top-level modules that the extra `lab` brings."""


def main() -> int:
    """Run the command line; returns the exit code (2 where a library of the extra `lab` is missing)."""
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
        print(
            f"gradstep: the command line needs '{missing}', which is not installed here.\n"
            'Install it, and all else the command line uses, with: pip install "gradstep[lab]"',
            file=sys.stderr,
        )
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
