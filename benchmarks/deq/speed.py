"""Time of a forward pass, and of a training step, against torchdeq 0.1.0.

    pip install torchdeq==0.1.0
    python benchmarks/deq/speed.py [--layers mlp conv mdeq] [--steps 10 20 40] [--rounds 7]

Three layers (a perceptron, a convolution, the tiny multiscale model) and every pairing of solvers.
Both libraries take all steps, in turn in every round, each first in every other one. Printed is,
for every pairing, the time that ours takes in calls of f without a graph, and torchdeq's time over
ours: medians over the rounds. For forward passes alone, a second table has the share of f in our
time, and what the ratio would be if our solver took no time beside f. The clock is the processor
time of this process.
"""

import argparse
import csv
import statistics
import sys
import time
from dataclasses import asdict, dataclass, fields
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


def multiscale(batch, memory_format=torch.contiguous_format):
    model = MDEQ(CONFIGS["cifar10-tiny"]).to(memory_format=memory_format)
    images = torch.randn(batch, 3, 32, 32).contiguous(memory_format=memory_format)
    with torch.no_grad():
        z0, injection, _ = model.problem(images)
    f = model.transform
    return Layer(f, z0, lambda: (injection, f.fix(z0)))


LAYERS = {
    "mlp": (perceptron, 64),
    "conv": (convolution, 16),
    "mdeq": (multiscale, 8),
    "mdeq-channels-last": (partial(multiscale, memory_format=torch.channels_last), 8),
}


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


@dataclass
class Row:
    """What was measured for a pairing: medians over the rounds, and quartiles of the ratio."""

    layer: str
    steps: int
    pairing: str
    calls: float  # of f, in which our time is given
    ratio: float  # torchdeq's time over ours
    lower: float
    upper: float


def measure(name, layer, steps, options, runs):
    """Yield a row for each pairing; the first round warms up."""
    for pairing in pairings(steps, options.pairings):
        own, ratios = [], []
        for i in range(options.rounds + 1):
            order = runs if i % 2 else runs[::-1]
            taken = {run: seconds(run, layer, pairing, steps) for run in order}
            own.append(taken[by_ours] / unit(layer))
            ratios.append(taken[runs[-1]] / taken[by_ours])
        lower, ratio, upper = quartiles(ratios[1:])
        yield Row(name, steps, pairing.name, statistics.median(own[1:]), ratio, lower, upper)


def quartiles(values):
    return statistics.quantiles(values, n=4, method="inclusive") if values[1:] else 3 * values


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
            for row in measure(name, layer, steps, options, runs):
                rows.append(row)
                print(f"{name} {steps}: {row.pairing}: {row.ratio:.2f}", file=sys.stderr)
    compared = len(runs) > 1
    for name in options.layers:
        report(name, [row for row in rows if row.layer == name], compared=compared)
    if compared:
        summarise(rows)
    if options.output:
        with options.output.open("w", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Row)])
            writer.writeheader()
            writer.writerows(map(asdict, rows))


def report(name, rows, *, compared):
    print(f"\n{name}: calls of f{' (torchdeq over ours)' * compared}")
    steps = dict.fromkeys(row.steps for row in rows)
    print(f"{'':34}" + "".join(f"{f'{number} steps':>16}" for number in steps))
    table(rows, lambda row: (f"{row.calls:.1f}", row.ratio), compared=compared)
    print("share of f" + " (the ratio if our solver took no time beside f)" * compared)
    table([row for row in rows if row.pairing in TORCHDEQS], share_of_f, compared=compared)


def share_of_f(row):
    """Return the share of f in our forward pass, and the ratio if f were all of it."""
    share = (row.steps + 1) / row.calls
    return f"{share:.0%}", row.ratio / share


def table(rows, cell, *, compared):
    for pairing in dict.fromkeys(row.pairing for row in rows):
        cells = [cell(row) for row in rows if row.pairing == pairing]
        texts = [own + f" ({ratio:.2f})" * compared for own, ratio in cells]
        print(f"{pairing:34}" + "".join(f"{text:>16}" for text in texts))


def summarise(rows):
    slow = [row for row in rows if row.ratio < 0.97]
    spread = statistics.median((row.upper - row.lower) / row.ratio for row in rows)
    print(f"\nOurs is slower by more than 3 % in {len(slow)} of {len(rows)} cases.")
    print(f"Half of the rounds differ by at most {spread:.0%} (the median of all cases).")


if __name__ == "__main__":
    main()
