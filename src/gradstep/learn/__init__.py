"""The course: challenges from SGD to clipping with a judge, hints, questions, experiments and notebooks.

On the command line it is ``gradstep learn``; in a notebook:

>>> from gradstep.learn import check
>>> def warmup_cosine(update, peak, warmup, total, floor=0.0):
...     return peak
>>> print(check("schedule", warmup_cosine).reason)
It is not linear warmup and cosine decay: by hand, warmup, cosine, floor, after the end, no warmup.
"""

from gradstep.learn.checking import CHALLENGES, Challenge, check

__all__ = ["CHALLENGES", "Challenge", "check"]
