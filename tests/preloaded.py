"""What :mod:`tests.children` imports once for all its processes: what takes long."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch warns of itself
    import torch._dynamo
    import torch.distributed.checkpoint
    import torch.distributed.fsdp
    import torch.distributed.optim  # noqa: F401

import gradstep.cli
import gradstep.judge
import gradstep.training  # noqa: F401
