"""``gradstep learn quiz``."""

from typing import Annotated

import typer

from gradstep.cli.learn.shared import Current, Dir, attended, show, show_next, told


def quiz(
    name: Current = None,
    dir_: Dir = None,
    answers: Annotated[str | None, typer.Option(help="Your letters, as in b,a,c; nothing is asked then.")] = None,
) -> None:
    """Questions on a challenge, with the answers explained."""
    from gradstep.learn import screen
    from gradstep.learn.course import Answer

    with told(dir_) as course:
        challenge = course.challenge(name)
        questions = challenge.lesson.questions
        letters = [] if answers is None else answers.split(",")
        graded = course.answer(challenge, letters) if answers is not None else []
        for number, question in enumerate(questions, 1):
            show(screen.question(question, number, len(questions)))
            if answers is not None:
                show(screen.graded(graded[number - 1]))
            elif attended():
                letters.append(_letter(question.letters))
                show(screen.graded(Answer(question, letters[-1], letters[-1] == question.letter)))
        if not letters:
            show_next(course, f"gradstep learn quiz {challenge.name}{course.option} --answers LETTER,LETTER,...")
            return
        graded = graded or course.answer(challenge, letters)
        show(screen.score(graded))
        show_next(course)


def _letter(letters: str) -> str:
    try:
        while (given := str(typer.prompt("Your answer")).strip().lower()) not in list(letters):
            typer.echo(f"One of {', '.join(letters)}.")
    except typer.Abort as stop:
        typer.echo("\nStopped; nothing is kept, and the questions begin anew.")
        raise typer.Exit(130) from stop
    return given
