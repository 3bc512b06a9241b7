"""Records written by hand: every number that a rule sees is in the test."""

import numpy as np

from gradstep.monitor import Group, Header, Numbers, ParameterInfo, PerParameter, Run, Update

BODY = ParameterInfo("body.weight", (30, 30), "float32", 0)
HEAD = ParameterInfo("head.weight", (10, 10), "float32", 0)


def header(**fields):
    settings = {"lr": 1e-3, "weight_decay": 0.01, "betas": [0.9, 0.999], **fields.pop("settings", {})}
    known = {"optimizer": "AdamW", "package": "gradstep", "rule": "AdamW", "parameters": (BODY, HEAD)}
    return Header(**{**known, "groups": (Group("group 0", settings),), **fields})


def update(
    number, *, loss=1.0, skipped="", loss_scale=None, culprit=None, columns=None, uncleared=None, other="", **fields
):
    usual = {
        "lr": 1e-3,
        "weight_decay": 0.01,
        "betas": (0.9, 0.999),
        "elements": 1000,
        "grad_norm": 1.0,
        "weight_norm": 10.0,
        "update_norm": 0.01,
        "unmoved": 0,
        "non_finite": 0,
    }
    return Update(
        number,
        float(number),
        loss=loss,
        groups=(Numbers(**{**usual, **fields}),),
        skipped=skipped,
        loss_scale=loss_scale,
        culprit=culprit,
        parameters=columns,
        uncleared=uncleared,
        other_optimizer=other,
    )


def columns(grad_norm, weight_norm=None, index=None):
    """Numbers of single parameters; the weights have norm 10 unless told."""
    count = len(grad_norm)
    empty = np.full(count, np.nan, np.float32)
    return PerParameter(
        np.arange(count, dtype=np.int32) if index is None else np.array(index, np.int32),
        np.array(grad_norm, np.float32),
        np.array([10.0] * count if weight_norm is None else weight_norm, np.float32),
        empty,
        empty,
        empty,
        empty,
        empty,
    )


def falling(count, start=4.0, end=1.0):
    """A loss that falls evenly."""
    return np.linspace(start, end, count).tolist()


def run(count=100, head=None, **of):
    """A healthy run, of which single numbers are told by functions of the update's number."""
    losses = falling(count)
    updates = [update(n, **{"loss": losses[n], **{name: value(n) for name, value in of.items()}}) for n in range(count)]
    return Run((head or header(),), tuple(updates))
