"""Trains the tagger on a CPU, with checkpoints to go on from."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from engines.punctuation.features import Pieces
from training.punctuation.dataset import IGNORED, Batch, Texts, batches
from training.punctuation.network import Tagger


@dataclass(frozen=True, slots=True)
class Plan:
    """How to train.

    Attributes:
        steps: optimiser steps in all.
        tokens: pieces a batch, about.
        layers: encoder layers kept.
        encoder_rate, head_rate: peak learning rates, reached after ``warm_up`` steps, zero at the end.
        minutes: by the clock, from the start of the training. Where the machine is too slow for ``steps`` by then, the
            rates fall to zero with the time instead and training ends.
        threads: CPU threads.
        seed: of texts' cuts, dropout and new weights.
    """

    steps: int = 3600
    tokens: int = 2400
    layers: int = 4
    encoder_rate: float = 2e-4
    head_rate: float = 1e-3
    warm_up: int = 140
    minutes: float = 50.0
    threads: int = 2
    seed: int = 7


def train(plan: Plan, texts: Texts, tagger: Tagger, pieces: Pieces, folder: Path, *, resume: bool = False) -> None:
    """Trains the tagger in place, writing ``checkpoint.pt`` and ``training.json`` into ``folder`` every 100 steps.

    ``resume`` goes on from that checkpoint with other cuts of the texts; ``minutes`` counts anew. A plan of no steps
    leaves the tagger as it is.
    """
    if plan.steps == 0:
        return
    torch.set_num_threads(plan.threads)
    torch.manual_seed(plan.seed)
    bfloat16 = _has_bfloat16()
    optimiser = _optimiser(tagger, plan)
    rates = [group["lr"] for group in optimiser.param_groups]
    first, seen = _restore(tagger, optimiser, folder) if resume else (0, 0)
    began, losses = time.monotonic(), torch.zeros(2)
    tagger.train()
    for turn, batch in enumerate(batches(texts, pieces, plan.tokens, plan.seed + first), start=1):
        step, minutes = first + turn, (time.monotonic() - began) / 60
        done = max(step / plan.steps, minutes / plan.minutes)
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * rate_share(turn, done, plan.warm_up)
        losses = 0.98 * losses + 0.02 * _step(tagger, optimiser, batch, bfloat16=bfloat16)
        seen += batch.columns.shape[0] * batch.columns.shape[2]
        if step % 50 == 0:
            mark, case = (losses / (1 - 0.98**turn)).tolist()
            print(f"step {step} {minutes:.1f} min {seen} pieces loss mark {mark:.4f} case {case:.4f}", flush=True)
        if step % 100 == 0 or done >= 1:
            _save(tagger, optimiser, folder, {"plan": asdict(plan), "step": step, "pieces": seen})
        if done >= 1:
            break
    tagger.eval()


def rate_share(turn: int, done: float, warm_up: int) -> float:
    """The share of the peak learning rate in this run's step ``turn`` when ``done`` (0 to 1) of the plan is over.

    It rises over ``warm_up`` steps and falls to zero with what is left, of steps or of time.
    """
    return min(turn / warm_up, max(1 - done, 0.0))


def _has_bfloat16() -> bool:
    """Whether the processor multiplies in bfloat16; one that does not takes twice as long for it as for floats."""
    flags = torch.cpu.get_capabilities()
    return bool(flags.get("avx512_bf16") or flags.get("amx_bf16"))


def _optimiser(tagger: Tagger, plan: Plan) -> torch.optim.Optimizer:
    new = [*tagger.hints.parameters(), *tagger.marks.parameters(), *tagger.cases.parameters()]
    known = {id(p) for p in new}
    old = [p for p in tagger.parameters() if id(p) not in known]
    groups = [{"params": old, "lr": plan.encoder_rate}, {"params": new, "lr": plan.head_rate}]
    return torch.optim.AdamW(groups, weight_decay=0.01, betas=(0.9, 0.98), fused=True)


def _step(tagger: Tagger, optimiser: torch.optim.Optimizer, batch: Batch, *, bfloat16: bool) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        marks, cases = tagger(torch.from_numpy(batch.columns).long())
    losses = torch.stack([_loss(marks, batch.marks), _loss(cases, batch.cases)])
    optimiser.zero_grad(set_to_none=True)
    losses.sum().backward()
    nn.utils.clip_grad_norm_(tagger.parameters(), 1.0)
    optimiser.step()
    return losses.detach()


def _loss(logits: Tensor, labels: object) -> Tensor:
    target = torch.as_tensor(labels)
    return nn.functional.cross_entropy(logits.float().flatten(0, 1), target.flatten(), ignore_index=IGNORED)


def _save(tagger: Tagger, optimiser: torch.optim.Optimizer, folder: Path, record: dict[str, object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    state = {"weights": tagger.state_dict(), "optimiser": optimiser.state_dict(), **record}
    torch.save(state, folder / "checkpoint.new")
    (folder / "checkpoint.new").replace(folder / "checkpoint.pt")
    (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def load_checkpoint(path: Path, layers: int) -> Tagger:
    """A trained tagger out of ``checkpoint.pt``, ready to use."""
    tagger = Tagger(layers)
    tagger.load_state_dict(torch.load(path, weights_only=True)["weights"])
    tagger.eval()
    return tagger


def _restore(tagger: Tagger, optimiser: torch.optim.Optimizer, folder: Path) -> tuple[int, int]:
    """Loads the checkpoint and returns the steps taken and the pieces seen."""
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    tagger.load_state_dict(state["weights"])
    if state["optimiser"]:
        optimiser.load_state_dict(state["optimiser"])
    return state["step"], state["pieces"]
