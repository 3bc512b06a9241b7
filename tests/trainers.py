"""What trainers put around an optimizer, in short."""

import torch


def like_accelerate(inner):
    class Around(torch.optim.Optimizer):
        def __init__(self):
            self.optimizer = inner

        def step(self, closure=None):
            return inner.step(closure)

        def zero_grad(self, set_to_none=True):
            inner.zero_grad(set_to_none)

        def __getattr__(self, name):
            return getattr(inner, name)

    return Around()


def like_lightning(inner):
    class Around:
        def __init__(self):
            self._optimizer = inner
            self.__class__ = type("Around", (Around, type(inner)), {})

        @property
        def optimizer(self):
            return self._optimizer

        def step(self, closure=None, **how):
            return self._optimizer.step(closure, **how)

        def __getattr__(self, name):
            return getattr(self._optimizer, name)

    return Around()


WRAPPERS = [like_accelerate, like_lightning, lambda inner: like_accelerate(like_lightning(inner))]
