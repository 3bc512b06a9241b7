"""English text: a small GPT-style transformer on Python's own documentation, one byte at a time."""

from collections.abc import Iterator
from functools import cache
from pydoc_data.topics import topics
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradstep.lab.task import Evaluation, MiniBatch, Task, evaluation_mode, isolate_random

CONTEXT = 64
WINDOWS = 8
MODEL_WIDTH = 96
HEADS = 4
LAYERS = 2
VOCABULARY = 256
HELD_OUT = 0.1
JUDGED = 16


@cache
def corpus() -> tuple[Tensor, Tensor]:
    """Return the bytes of the training text and of the held-out text, the last tenth of all topics."""
    text = "\n".join(topics[name] for name in sorted(topics)).encode()
    tokens = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    split = int(len(tokens) * (1 - HELD_OUT))
    return tokens[:split], tokens[split:]


def windows(tokens: Tensor, starts: Tensor) -> MiniBatch:
    """Return inputs and targets, both of shape (B, CONTEXT); the target of a byte is the next byte.

    Args:
        tokens: the text, of shape (N,).
        starts: first byte of each window, of shape (B,).
    """
    rows = tokens[starts[:, None] + torch.arange(CONTEXT + 1, device="cpu")]
    return rows[:, :-1], rows[:, 1:]


@final
class Block(nn.Module):
    """Attention to the past, then a two-layer perceptron, each on normalised input and added to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(MODEL_WIDTH)
        self.query_key_value = nn.Linear(MODEL_WIDTH, 3 * MODEL_WIDTH)
        self.project = nn.Linear(MODEL_WIDTH, MODEL_WIDTH)
        self.feed_norm = nn.LayerNorm(MODEL_WIDTH)
        self.feed = nn.Sequential(
            nn.Linear(MODEL_WIDTH, 4 * MODEL_WIDTH), nn.GELU(), nn.Linear(4 * MODEL_WIDTH, MODEL_WIDTH)
        )
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        heads = self.query_key_value(self.attention_norm(x)).view(batch, length, 3, HEADS, MODEL_WIDTH // HEADS)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.dropout(self.project(mixed.transpose(1, 2).reshape(batch, length, MODEL_WIDTH)))
        out: Tensor = x + self.dropout(self.feed(self.feed_norm(x)))
        return out


@final
class Transformer(nn.Module):
    """A decoder-only transformer over bytes: (B, T) integers in, (B, T, 256) logits of the next byte out."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(VOCABULARY, MODEL_WIDTH)
        self.position = nn.Embedding(CONTEXT, MODEL_WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(MODEL_WIDTH)
        self.head = nn.Linear(MODEL_WIDTH, VOCABULARY, bias=False)
        for table in (self.token, self.position):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(tokens) + self.position.weight[: tokens.shape[1]]
        logits: Tensor = self.head(self.norm(self.blocks(x)))
        return logits


@final
class Text(Task):
    """A language model over bytes with 279,168 parameters; see the description."""

    name = "text"
    title = "English text"
    description = (
        "A small GPT-style transformer learns to foretell the next byte of English text (pydoc_data.topics, "
        f"the text of Python's own help): {LAYERS} layers of width {MODEL_WIDTH}, batches of {WINDOWS} windows of "
        f"{CONTEXT} bytes, the last tenth of the text held out. Some paragraphs occur in several topics, so "
        "the held-out text is not wholly new."
    )
    loss_word = "loss"
    loss_name = "cross-entropy on held-out text (nats a byte)"
    log_loss = False
    steps = 600
    quick_steps = 0  # some tens of steps show only which learning rate is highest
    stride = 10

    def model(self, seed: int) -> nn.Module:
        with isolate_random(seed):
            return Transformer()

    def batches(self, seed: int) -> Iterator[MiniBatch]:
        tokens, _ = corpus()
        generator = torch.Generator().manual_seed(seed)
        while True:
            yield windows(tokens, torch.randint(len(tokens) - CONTEXT, (WINDOWS,), generator=generator, device="cpu"))

    def loss(self, model: nn.Module, batch: MiniBatch) -> Tensor:
        tokens, targets = batch
        return F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())

    def evaluate(self, model: nn.Module) -> Evaluation:
        _, held_out = corpus()
        tokens, targets = windows(
            held_out, torch.linspace(0, len(held_out) - CONTEXT - 1, JUDGED, dtype=torch.float32, device="cpu").long()
        )
        with evaluation_mode(model):
            logits = model(tokens)
            right = (logits.argmax(-1) == targets).float().mean()
            return Evaluation(F.cross_entropy(logits.flatten(0, 1), targets.flatten()).item(), right.item())
