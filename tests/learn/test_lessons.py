"""The lessons' files: complete, and read as they are written."""

import re
from collections import Counter
from importlib.resources import files

import pytest

from gradstep.learn.checking import CHALLENGES
from gradstep.learn.lesson import FRAMEWORKS, parse

SMALL = """# A title

Text.

## NumPy

```python
## no heading
x = 1
```

## PyTorch

```python
x = 2
```

## Hints

1. One
   in two lines.
2. Two.

## Questions

### Why?

- [ ] No.
- [x] Yes.

> Because
> it is.
"""


def test_every_file_is_a_challenge():
    names = {f.name.removesuffix(".md") for f in (files("gradstep.learn") / "content").iterdir()}
    assert names == set(CHALLENGES)


@pytest.mark.parametrize("challenge", CHALLENGES.values(), ids=CHALLENGES)
def test_a_lesson_has_everything(challenge):
    lesson = challenge.lesson
    assert lesson.title
    assert "```text" in lesson.text  # the mathematics
    assert len(lesson.hints) >= 3
    assert len(lesson.questions) >= 3
    for question in lesson.questions:
        assert len(question.options) >= 3
        assert len(set(question.options)) == len(question.options)
        assert len(question.why) > 60
    for framework in FRAMEWORKS:
        assert re.search(rf"^(class|def) {challenge.entry}\b", lesson.code[framework].source, re.MULTILINE)


def test_the_right_letter_cannot_be_guessed():
    letters = Counter(q.letter for c in CHALLENGES.values() for q in c.lesson.questions)
    assert max(letters.values()) <= sum(letters.values()) / 2


def test_the_parts_of_a_file():
    lesson = parse(SMALL)
    assert (lesson.title, lesson.text) == ("A title", "Text.")
    assert lesson.code["numpy"].source == "## no heading\nx = 1\n"
    assert lesson.hints == ("One in two lines.", "Two.")
    (question,) = lesson.questions
    assert (question.text, question.options, question.letter) == ("Why?", ("No.", "Yes."), "b")
    assert question.why == "Because it is."


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("## Hints", "## Hint", "sections"),
        ("- [ ] No.", "- [x] No.", "one right option"),
        ("- [x] Yes.", "- [ ] Yes.", "one right option"),
        ("> Because\n> it is.\n", "", "explanation"),
    ],
)
def test_what_is_missing_is_said(before, after, says):
    assert before in SMALL
    with pytest.raises(ValueError, match=says):
        parse(SMALL.replace(before, after))
