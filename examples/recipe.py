"""What every example here trains: a tiny GPT on the help texts that come with Python. Nothing is downloaded.

One update takes ``ACCUMULATE`` micro-batches of ``BATCH`` blocks, each of 33 bytes: 32 to predict, each from those
before. The model is called as those of transformers are, and the data is in one fixed order, so that all examples can
be held against each other.
"""

from pydoc_data.topics import topics

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from gradstep.schedules import cosine, warmup

LR = 3e-3
WEIGHT_DECAY = 0.1
MAX_GRAD_NORM = 0.5
BATCH = 8
ACCUMULATE = 2
UPDATES = 24
SCHEDULE = warmup(updates=4, to=LR).then(cosine(LR, updates=UPDATES - 4))

VOCABULARY = 256
BLOCK = 33


class Block(nn.Module):
    """Attention to what came before, then a small network, each added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """From (batch, time, width) to the same."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        result: Tensor = x + self.mlp(self.norm2(x))
        return result


class GPT(nn.Module):
    """A language model over bytes; ``forward`` takes and gives what those of transformers do."""

    def __init__(self, width: int = 32, heads: int = 2, layers: int = 2) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCABULARY, width), nn.Embedding(BLOCK, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The mean loss over the labels that count (not -100), each predicted from what stands before it."""
        x = self.tokens(input_ids) + self.places.weight[: input_ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x)).float()  # so that the loss of a model in bfloat16 is exact
        loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return {"loss": loss, "logits": logits}


def gpt() -> GPT:
    """A model whose first weights are the same every time."""
    torch.manual_seed(0)
    return GPT()


def dataset(updates: int = UPDATES) -> list[dict[str, Tensor]]:
    """The blocks of so many updates, from all over the text, in an order that is the same every time."""
    text = "".join(topics[name] for name in sorted(topics)).encode()
    count = updates * ACCUMULATE * BATCH
    stride = (len(text) - BLOCK) // (UPDATES * ACCUMULATE * BATCH)
    order = torch.randperm(UPDATES * ACCUMULATE * BATCH, generator=torch.Generator().manual_seed(0))[:count]
    blocks = [torch.tensor(list(text[start : start + BLOCK])) for start in (order * stride).tolist()]
    # Nothing stands before a block's first byte, and Hugging Face's Trainer counts the labels that are not -100.
    return [{"input_ids": block, "labels": torch.cat([torch.tensor([-100]), block[1:]])} for block in blocks]


def loader(updates: int = UPDATES) -> "DataLoader[dict[str, Tensor]]":
    """The same as micro-batches."""
    blocks: torch.utils.data.Dataset[dict[str, Tensor]] = dataset(updates)  # type: ignore[assignment]  # a list serves
    return DataLoader(blocks, batch_size=BATCH)
