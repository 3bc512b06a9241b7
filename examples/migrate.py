"""From torch.optim to gradstep in the middle of a run, and back: `python examples/migrate.py`.

One training of a small network on the digits of scikit-learn, in three parts: torch's AdamW, then gradstep's from
torch's checkpoint, then torch's from gradstep's. The loop, the scheduler and the GradScaler are the same in all three.
At the end the weights are compared with those of a run that used torch's AdamW throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from sklearn.datasets import load_digits

import gradstep

STEPS = 60


def train(kinds: Sequence[Any]) -> torch.nn.Module:
    """Train in as many parts as there are optimizer classes; each part begins from the checkpoint of the last."""
    images, digits = (torch.tensor(a) for a in load_digits(return_X_y=True))
    images = images.float() / 16
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    checkpoint: dict[str, Any] = {}
    for part, kind in enumerate(kinds):
        optimizer = kind(model.parameters(), lr=3e-3, weight_decay=0.1)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=len(kinds) * STEPS)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        for name, holder in (("optimizer", optimizer), ("scheduler", scheduler), ("scaler", scaler)):
            if checkpoint:
                holder.load_state_dict(checkpoint[name])
        for step in range(STEPS):
            at = torch.arange(64) + 64 * (part * STEPS + step)
            loss = torch.nn.functional.cross_entropy(model(images[at % len(images)]), digits[at % len(images)])
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            scheduler.step()
        checkpoint = {
            "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(),
            "scaler": scaler.state_dict(),
        }
        library, lr = kind.__module__.split(".")[0], scheduler.get_last_lr()[0]
        print(f"{library:>8}: loss {loss.item():.4f}, learning rate {lr:.2e}")
    return model


def main() -> float:
    """Run both trainings; return the largest difference of a weight."""
    moved = train([torch.optim.AdamW, gradstep.AdamW, torch.optim.AdamW])
    stayed = train([torch.optim.AdamW] * 3)
    pairs = zip(moved.parameters(), stayed.parameters(), strict=True)
    difference = max(float((a - b).detach().abs().max()) for a, b in pairs)
    print(f"largest difference of a weight from torch's run: {difference:.1e}")
    return difference


if __name__ == "__main__":
    main()
