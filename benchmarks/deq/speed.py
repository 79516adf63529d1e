"""Time of a forward pass, and of a training step, against torchdeq 0.1.0.

    pip install torchdeq==0.1.0
    python benchmarks/deq/speed.py [--layers mlp conv mdeq] [--steps 10 20 40] [--rounds 7]

Three layers (a perceptron, a convolution, the tiny multiscale model) and every pairing of solvers.
Both libraries take all steps, in turn in every round, each first in every other one. Printed is,
for every pairing, the time that ours takes in calls of f without a graph, and torchdeq's time over
ours: medians over the rounds. The clock is the processor time of this process.
"""

import argparse
import csv
import statistics
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from hoag_shine.deq import fixed_point
from hoag_shine.deq.backward import implicit
from hoag_shine.deq.mdeq import CONFIGS, MDEQ

TORCHDEQS = {"broyden": "broyden", "anderson": "anderson", "picard": "fixed_point_iter"}


@dataclass
class Layer:
    """An f with its start and inputs."""

    f: nn.Module
    z0: tuple
    fix: object  # makes the inputs of one solve

    def loss(self, z):
        return sum(part.square().mean() for part in z)


class Perceptron(nn.Module):
    """z -> norm(tanh(W z) + x)."""

    def __init__(self, width=512):
        super().__init__()
        self.linear, self.norm = nn.Linear(width, width), nn.LayerNorm(width)

    def forward(self, z, x):
        return (self.norm(torch.tanh(self.linear(z[0])) + x),)


class Convolution(nn.Module):
    """z -> norm(relu(conv(z)) + x)."""

    def __init__(self, channels=32):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.GroupNorm(4, channels)

    def forward(self, z, x):
        return (self.norm(self.conv(z[0]).relu() + x),)


def perceptron(batch):
    x = torch.randn(batch, 512)
    return Layer(Perceptron(), (torch.zeros_like(x),), lambda: (x,))


def convolution(batch):
    x = torch.randn(batch, 32, 16, 16)
    return Layer(Convolution(), (torch.zeros_like(x),), lambda: (x,))


def multiscale(batch):
    model = MDEQ(CONFIGS["cifar10-tiny"])
    with torch.no_grad():
        z0, injection, _ = model.problem(torch.randn(batch, 3, 32, 32))
    f = model.transform
    return Layer(f, z0, lambda: (injection, f.fix(z0)))


LAYERS = {"mlp": (perceptron, 64), "conv": (convolution, 16), "mdeq": (multiscale, 8)}


@dataclass
class Pairing:
    """A forward solver and a backward pass, in both libraries."""

    name: str
    ours: dict
    torchdeqs: dict
    training: bool = True


def pairings(steps, names=None):
    """Return all of them: forward passes alone, the implicit backward, and that of one step."""
    found = []
    for ours, theirs in TORCHDEQS.items():
        forward = {"solver": ours}, {"f_solver": theirs}
        found.append(Pairing(ours, *forward, training=False))
        for b_ours, b_theirs in TORCHDEQS.items():
            how = {"backward": partial(implicit, solver=b_ours, max_iter=steps, tol=0)}
            settings = {"ift": True, "b_solver": b_theirs, "b_tol": 0.0}
            settings["b_max_iter"] = calls(b_theirs, steps)
            name = f"{ours}, implicit by {b_ours}"
            found.append(Pairing(name, forward[0] | how, forward[1] | settings))
        how, settings = {"backward": "jacobian-free"}, {"grad": 1}
        found.append(Pairing(f"{ours}, one step", forward[0] | how, forward[1] | settings))
    unwatched = {"solver": "picard", "monitor": False}
    simple = {"f_solver": "simple_fixed_point_iter"}
    found.append(Pairing("picard, no statistics", unwatched, simple, training=False))
    return [pairing for pairing in found if names is None or pairing.name in names]


def calls(solver, steps):
    """Return torchdeq's budget for as many calls of f as ours makes, one more than steps."""
    return steps if solver == "broyden" else steps + 1


def by_ours(layer, pairing, steps):
    options = {"max_iter": steps, "tol": 0, "check_separable": False}
    if not pairing.training:
        options["backward"] = "jacobian-free"
    return fixed_point(layer.f, layer.z0, *layer.fix(), **options | pairing.ours)[0]


def by_torchdeq(layer, pairing, steps):
    from torchdeq import get_deq

    inputs = layer.fix()
    budget = calls(pairing.torchdeqs["f_solver"], steps)
    deq = get_deq(f_max_iter=budget, f_tol=0.0, **pairing.torchdeqs)
    return deq(lambda *z: layer.f(z, *inputs), layer.z0)[0][-1]


def seconds(run, layer, pairing, steps):
    start = time.process_time()
    if pairing.training:
        layer.loss(run(layer, pairing, steps)).backward()
    else:
        with torch.no_grad():
            run(layer, pairing, steps)
    taken = time.process_time() - start
    layer.f.zero_grad(set_to_none=True)
    return taken


def unit(layer, n_calls=20):
    """Return the seconds that a call of f takes."""
    inputs = layer.fix()
    with torch.no_grad():
        start = time.process_time()
        for _ in range(n_calls):
            layer.f(layer.z0, *inputs)
    return (time.process_time() - start) / n_calls


def measure(layer, steps, options, runs):
    """Yield each pairing with ours in calls of f, and the ratio; the first round warms up."""
    for pairing in pairings(steps, options.pairings):
        own, ratios = [], []
        for i in range(options.rounds + 1):
            order = runs if i % 2 else runs[::-1]
            taken = {run: seconds(run, layer, pairing, steps) for run in order}
            own.append(taken[by_ours] / unit(layer))
            ratios.append(taken[runs[-1]] / taken[by_ours])
        yield pairing.name, statistics.median(own[1:]), statistics.median(ratios[1:])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=list(LAYERS))
    parser.add_argument("--steps", nargs="+", type=int, default=[10, 20, 40])
    parser.add_argument("--rounds", type=int, default=7)
    names = [pairing.name for pairing in pairings(1)]
    parser.add_argument("--pairings", nargs="+", choices=names, help="by default all")
    parser.add_argument("--batch", type=int, help="by default 64, 16 and 8")
    parser.add_argument("--output", type=Path, help="a CSV file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs = [by_ours]
    try:
        import torchdeq  # noqa: F401
    except ImportError:
        print("torchdeq is not installed: our times alone")
    else:
        runs.append(by_torchdeq)
    rows = []
    for name in options.layers:
        make, batch = LAYERS[name]
        torch.manual_seed(0)
        layer = make(options.batch or batch)
        for steps in options.steps:
            for row in measure(layer, steps, options, runs):
                rows.append((name, steps, *row))
                print(f"{name} {steps}: {row[0]}: {row[2]:.2f}", file=sys.stderr)
    report(rows, options, compared=len(runs) > 1)


def report(rows, options, *, compared):
    for name in options.layers:
        print(f"\n{name}: calls of f{' (torchdeq over ours)' * compared}")
        print(f"{'':34}" + "".join(f"{f'{steps} steps':>16}" for steps in options.steps))
        for pairing in dict.fromkeys(row[2] for row in rows):
            found = {r[1]: r[3:] for r in rows if (r[0], r[2]) == (name, pairing)}
            cells = [found[steps] for steps in options.steps]
            texts = [f"{own:.1f}" + f" ({ratio:.2f})" * compared for own, ratio in cells]
            print(f"{pairing:34}" + "".join(f"{text:>16}" for text in texts))
    if compared:
        slow = [row for row in rows if row[4] < 0.97]
        print(f"\nOurs is slower by more than 3 % in {len(slow)} of {len(rows)} cases.")
    if options.output:
        with options.output.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["layer", "steps", "pairing", "calls of f", "torchdeq over ours"])
            writer.writerows(rows)


if __name__ == "__main__":
    main()
