"""Everything in one command: texts, training, export, tuning, evaluation.

python -m training.punctuation.run [--data FOLDER] [--work FOLDER] [--out FOLDER] [--minutes N]
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from engines.punctuation.lexicon import save_lexicon
from engines.punctuation.wordpiece import load_pieces
from training.punctuation.dataset import prepare
from training.punctuation.evaluate import DATA, MODEL, report_held_out, report_speed, systems
from training.punctuation.export import export
from training.punctuation.exported import read_exported
from training.punctuation.network import start_from
from training.punctuation.sources import encoder_folder, fetch
from training.punctuation.train import Plan, load_checkpoint, train
from training.punctuation.tune import tune


def main() -> None:
    """Reads the command line and runs every stage; ``--checkpoint`` leaves the training out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=DATA, help="folder that the texts are fetched to")
    parser.add_argument("--work", type=Path, default=DATA / "work", help="folder for checkpoints")
    parser.add_argument("--out", type=Path, default=MODEL, help="folder that the model is written to")
    parser.add_argument("--steps", type=int, default=Plan().steps)
    parser.add_argument("--minutes", type=float, default=Plan().minutes, help="training ends by then in any case")
    parser.add_argument("--seed", type=int, default=Plan().seed, help="another one gives other cuts and mistakes")
    parser.add_argument("--rates", type=float, default=1.0, help="share of the plan's peak learning rates")
    parser.add_argument("--start-from", type=Path, help="train an exported model further; a folder as --out makes it")
    parser.add_argument("--checkpoint", type=Path, help="export this checkpoint.pt instead of training")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --work")
    parser.add_argument("--no-evaluation", action="store_true")
    arguments = parser.parse_args()
    plan = Plan(
        steps=arguments.steps,
        minutes=arguments.minutes,
        seed=arguments.seed,
        encoder_rate=arguments.rates * Plan().encoder_rate,
        head_rate=arguments.rates * Plan().head_rate,
    )
    fetch(arguments.data)
    texts = prepare(arguments.data)
    encoder = encoder_folder(arguments.data)
    pieces = load_pieces(encoder / "tokenizer.json", remembered=200_000)
    if arguments.checkpoint:
        tagger = load_checkpoint(arguments.checkpoint, plan.layers)
    else:
        given = arguments.start_from
        tagger = read_exported(given / "punctuation.onnx") if given else start_from(encoder, plan.layers)
        train(plan, texts, tagger, pieces, arguments.work, resume=arguments.resume)
    arguments.out.mkdir(parents=True, exist_ok=True)
    export(tagger, arguments.out / "punctuation.onnx")
    shutil.copyfile(encoder / "tokenizer.json", arguments.out / "tokenizer.json")
    save_lexicon(texts.lexicon, arguments.out / "casing.tsv")
    tune(tagger, texts, pieces, arguments.out / "settings.json")
    if not arguments.no_evaluation:
        report_held_out(texts, systems(arguments.out))
        report_speed(arguments.out)


if __name__ == "__main__":
    main()
