"""The tagger: the first layers of a BERT encoder with hint embeddings under it and two linear heads on it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from engines.punctuation.features import CASE_HINTS, MARK_HINTS
from engines.punctuation.lexicon import Prior
from engines.punctuation.text import MARKS, Case

WIDTH, HEADS, INNER, POSITIONS = 384, 12, 1536, 512
"""The shape of MiniLM-L6-H384."""


class Layer(nn.Module):  # type: ignore[misc, unused-ignore]  # torch is not in the serving environment
    """One post-norm transformer layer as in BERT."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.query, self.key, self.value, self.output = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.widen, self.narrow = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)
        self.norm_attention, self.norm_output = (nn.LayerNorm(WIDTH, eps=1e-12) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, bias: Tensor) -> Tensor:
        """Maps hidden (b, n, w) under an additive attention bias (b, 1, 1, n)."""
        batch, length, _ = hidden.shape

        def split(x: Tensor) -> Tensor:
            return x.view(batch, length, HEADS, WIDTH // HEADS).transpose(1, 2)

        query, key, value = split(self.query(hidden)), split(self.key(hidden)), split(self.value(hidden))
        scores = query @ key.transpose(2, 3) * (WIDTH // HEADS) ** -0.5 + bias
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, length, WIDTH)
        hidden = self.norm_attention(hidden + self.dropout(self.output(mixed)))
        widened = nn.functional.gelu(self.widen(hidden))
        return self.norm_output(hidden + self.dropout(self.narrow(widened)))


class Tagger(nn.Module):  # type: ignore[misc, unused-ignore]
    """Predicts for every piece the mark after its unit and its unit's own casing."""

    def __init__(self, layers: int = 4, vocabulary: int = 30522, dropout: float = 0.1) -> None:
        super().__init__()
        self.pieces = nn.Embedding(vocabulary, WIDTH, padding_idx=0)
        self.positions = nn.Embedding(POSITIONS, WIDTH)
        sizes = (2, MARK_HINTS, CASE_HINTS, len(Prior))
        self.hints = nn.ModuleList(nn.Embedding(size, WIDTH) for size in sizes)
        for hint in self.hints:
            nn.init.zeros_(hint.weight)
        self.norm = nn.LayerNorm(WIDTH, eps=1e-12)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(Layer(dropout) for _ in range(layers))
        self.marks = nn.Linear(WIDTH, len(MARKS))
        self.cases = nn.Linear(WIDTH, len(Case))

    def forward(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Maps columns int (b, 5, n) to mark logits (b, n, 5) and case logits (b, n, 4)."""
        pieces = columns[:, 0]
        length = pieces.shape[1]
        hidden = self.pieces(pieces) + self.positions.weight[:length]
        for i, hint in enumerate(self.hints):
            hidden = hidden + hint(columns[:, 1 + i])
        hidden = self.dropout(self.norm(hidden))
        bias = (pieces == 0)[:, None, None, :].to(hidden.dtype) * -1e9
        for layer in self.layers:
            hidden = layer(hidden, bias)
        return self.marks(hidden), self.cases(hidden)


_NAMES = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "output",
    "attention.output.LayerNorm": "norm_attention",
    "intermediate.dense": "widen",
    "output.dense": "narrow",
    "output.LayerNorm": "norm_output",
}


def start_from(encoder: Path, layers: int) -> Tagger:
    """A tagger whose embeddings and first layers come from a BERT checkpoint in safetensors form."""
    weights = read_safetensors(encoder / "model.safetensors")
    tagger = Tagger(layers)
    state = tagger.state_dict()
    state["pieces.weight"] = weights["embeddings.word_embeddings.weight"]
    kind = weights["embeddings.token_type_embeddings.weight"][0]
    state["positions.weight"] = weights["embeddings.position_embeddings.weight"] + kind
    for end in ("weight", "bias"):
        state[f"norm.{end}"] = weights[f"embeddings.LayerNorm.{end}"]
        for layer in range(layers):
            for theirs, ours in _NAMES.items():
                state[f"layers.{layer}.{ours}.{end}"] = weights[f"encoder.layer.{layer}.{theirs}.{end}"]
    tagger.load_state_dict(state)
    return tagger


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The float32 tensors of a safetensors file: a length, a JSON header with offsets, the data."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    tensors: dict[str, Tensor] = {}
    for name, entry in json.loads(data[8:start]).items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            first, last = entry["data_offsets"]
            values = np.frombuffer(data[start + first : start + last], np.float32).reshape(entry["shape"])
            tensors[name] = torch.from_numpy(values.copy())
    return tensors
