"""Whole runs: digits, a regression, and the lessons that the optimizers are for."""

import numpy as np
import pytest

import gradstep.numpy as gn


def test_digits():
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(labels))
    test, train = order[:397], order[397:]
    model = gn.Sequential(gn.Linear(64, 128, rng=rng), gn.ReLU(), gn.Linear(128, 10, rng=rng))
    loss_fn, epochs = gn.CrossEntropyLoss(), 20
    optimizer = gn.AdamW(model.parameters(), lr=0.01)
    schedule = gn.CosineSchedule(max_lr=0.01, min_lr=0.0, total_epochs=epochs)
    for epoch in range(epochs):
        optimizer.lr = schedule.get_lr(epoch)
        for batch in np.array_split(rng.permutation(train), len(train) // 64):
            optimizer.zero_grad()
            loss_fn(model(pixels[batch] / 16), labels[batch]).backward()
            gn.clip_grad_norm(model.parameters(), max_norm=1.0)
            optimizer.step()
    with gn.no_grad():
        right = model(pixels[test] / 16).data.argmax(axis=1) == labels[test]
    assert right.mean() > 0.95


@pytest.mark.parametrize("make", [lambda p: gn.SGD(p, lr=0.05, momentum=0.9), lambda p: gn.Adam(p, lr=0.02)])
def test_regression(make):
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, (256, 2))
    y = np.sin(3 * x[:, :1]) * x[:, 1:]
    model = gn.Sequential(gn.Linear(2, 32, rng=rng), gn.ReLU(), gn.Linear(32, 1, rng=rng))
    loss_fn, optimizer = gn.MSELoss(), make(model.parameters())
    losses = []
    for _ in range(400):
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * np.var(y)


def test_decay_in_the_gradient_is_scaled_and_decay_of_the_weight_is_not():
    """With gradients a thousand times larger, AdamW takes the same share of the weight and Adam does not."""

    def shrunk(kind, size):
        shares = []
        for decay in (0.0, 0.1):
            p = gn.Parameter(np.ones(1))
            optimizer = kind([p], lr=0.01, weight_decay=decay)
            for step in range(20):
                p.grad = np.array([size * (-1) ** step])
                optimizer.step()
            shares.append(p.data[0])
        return shares[0] - shares[1]

    assert shrunk(gn.AdamW, 1000.0) == pytest.approx(shrunk(gn.AdamW, 1.0), rel=1e-3)
    assert shrunk(gn.Adam, 1000.0) < 0.01 * shrunk(gn.Adam, 1.0)


def test_momentum_in_a_ravine():
    def steps_to_floor(momentum):
        p = gn.Parameter(np.array([1.0, 1.0]))
        optimizer = gn.SGD([p], lr=0.018, momentum=momentum)
        for step in range(2000):
            if np.abs(p.data).max() < 1e-3:
                return step
            p.grad = np.array([1.0, 100.0]) * p.data
            optimizer.step()
        return 2000

    assert steps_to_floor(0.8) < steps_to_floor(0.0) / 2
