"""Test accuracy of a multiscale DEQ trained with each backward method, over seeds.

    python benchmarks/deq/accuracy.py --data DATA [--config small] [--limit 2000] [--seeds 3]

All runs have the same steps, and differ in the backward method and the seed alone. The time of a
step is the median over those after the pretraining phase, over that of the first method; on a CPU
it is processor time.
"""

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import torch

from hoag_shine.deq.mdeq import CONFIGS, MDEQ
from hoag_shine.deq.training import Recipe, Trainer, load_images

BACKWARDS = {
    "implicit": {"backward": "implicit"},
    "auto": {"backward": "auto"},
    "shine": {"backward": "shine"},
    "shine, fallback": {"backward": "shine", "fallback": "residual"},
    "shine, refine 5": {"backward": "shine", "refine": 5},
    "shine, adjoint OPA": {"backward": "shine", "solver": "adjoint-broyden"},
    "jacobian-free": {"backward": "jacobian-free"},
    "phantom": {"backward": "phantom"},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--config", choices=CONFIGS, default="small")
    parser.add_argument("--limit", type=int, help="number of training images")
    parser.add_argument("--test-limit", type=int)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--pretrain-steps", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--no-augment", action="store_true")
    parser.add_argument("--no-flip", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--methods", nargs="+", choices=BACKWARDS, default=list(BACKWARDS))
    options = parser.parse_args()
    train, test = load_images(options.data)
    train, test = train.first(options.limit), test.first(options.test_limit)
    config = dataclasses.replace(
        CONFIGS[options.config],
        in_channels=train.pixels.shape[1],
        n_classes=int(train.labels.max()) + 1,
        epochs=options.epochs,
        pretrain_steps=options.pretrain_steps,
    )
    results = {name: [] for name in options.methods}
    for seed in range(options.seeds):
        for name in options.methods:
            results[name].append(run(config, train, test, seed, BACKWARDS[name], options))
            print(f"seed {seed}, {name}: {results[name][-1][0]:.4f}", file=sys.stderr)
    print(f"{options.config}, {options.data}, {len(train)} images, {options.epochs} epochs")
    print(f"{'':20} {'accuracy':>9} {'spread':>7} {'loss':>7}  step time")
    unit = statistics.median(r[2] for r in results[options.methods[0]])
    for name, runs in results.items():
        accuracies, losses, seconds = zip(*runs, strict=True)
        spread = statistics.stdev(accuracies) if len(runs) > 1 else float("nan")
        print(
            f"{name:20} {statistics.mean(accuracies):9.4f} {spread:7.4f} "
            f"{statistics.mean(losses):7.4f} {statistics.median(seconds) / unit:8.2f}"
        )


def run(config, train, test, seed, how, options):
    torch.manual_seed(seed)
    model = MDEQ(config, **how)
    recipe = Recipe(
        seed=seed,
        device=options.device,
        augment=not options.no_augment,
        flip=not options.no_flip,
        tensorboard=False,
    )
    clock = time.process_time if options.device == "cpu" else time.perf_counter
    moments = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(model, train, test, recipe, Path(folder))
        row = trainer.run(lambda step, row: moments.append(clock()))
    steps = [end - start for start, end in pairwise(moments[config.pretrain_steps :])]
    return row["test_accuracy"], row["test_loss"], statistics.median(steps)


if __name__ == "__main__":
    main()
