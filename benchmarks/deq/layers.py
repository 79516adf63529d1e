"""How each backward method does on four trained layers, over seeds: gradients, time and training.

    python benchmarks/deq/layers.py [--quick] [--seeds 3]

A perceptron and a convolution on the digits of scikit-learn, a causal attention layer on the
characters of its descriptions of data sets, and a graph network on the neighbours of the digits,
whose nodes are one problem. Each layer is trained with the implicit backward first. Then, for some
batches, the gradient of its parameters by every method is compared with that of the linear system
solved to 1e-8 at the same z. Printed for every method are the median over batches and seeds of

- the cosine with the solved gradient, with its quartiles, and the distance to it over its length;
- the products with the transposed Jacobian;
- the processor time of forward and backward, over that with the Jacobian-free method;

and, of a training with that method, the mean and the standard deviation over seeds of the loss at
the end, and the mean of the seconds of processor time that it took.
"""

import argparse
import statistics
import time
from functools import partial

import torch
from sklearn import datasets
from torch import nn
from torch.nn import functional

from hoag_shine.deq import DEQ
from hoag_shine.deq.backward import implicit
from hoag_shine.deq.solvers import adjoint_broyden

REFERENCE = {"backward": partial(implicit, tol=1e-8, max_iter=200)}
AWARE = partial(adjoint_broyden, opa_every=1)
METHODS = {
    "jacobian-free": {"backward": "jacobian-free"},
    "phantom": {"backward": "phantom"},
    "shine": {"backward": "shine"},
    "shine, OPA every step": {"backward": "shine", "solver": AWARE},
    "jacobian-free, refine 5": {"backward": "jacobian-free", "refine": 5},
    "shine, refine 5": {"backward": "shine", "refine": 5},
    "implicit": {"backward": "implicit"},
    "auto, 0.5": {"backward": "auto", "backward_tol": 0.5},
    "auto, 0.1": {"backward": "auto", "backward_tol": 0.1},
    "auto, 0.02": {"backward": "auto", "backward_tol": 0.02},
}


class Perceptron(nn.Module):
    """z -> tanh(W z + U x) on digits as vectors."""

    batch_dims = 1

    def __init__(self, width=64):
        super().__init__()
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(64, width)
        self.head = nn.Linear(width, 10)

    def start(self, x):
        return self.outer(x.flatten(1))

    def forward(self, z, x):
        return torch.tanh(self.inner(z) + x)


class Convolution(nn.Module):
    """A residual block with group normalisations, on digits as images."""

    batch_dims = 1

    def __init__(self, channels=8):
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, padding=1)
        self.first = nn.Conv2d(channels, 2 * channels, 3, padding=1)
        self.second = nn.Conv2d(2 * channels, channels, 3, padding=1)
        self.norms = nn.ModuleList(nn.GroupNorm(4, c) for c in (2 * channels, channels, channels))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(64 * channels, 10))

    def start(self, x):
        return self.stem(x)

    def forward(self, z, x):
        inner = self.norms[0](self.first(z).relu())
        inner = self.norms[1](x + self.second(inner))
        return self.norms[2]((z + inner).relu())


class Attention(nn.Module):
    """A causal attention and a perceptron, as in a transformer, on characters."""

    batch_dims = 1

    def __init__(self, n_characters, length, width=32):
        super().__init__()
        self.embed = nn.Embedding(n_characters, width)
        self.places = nn.Parameter(0.1 * torch.randn(length, width))
        self.keys = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.inner, self.outer = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.head = nn.Linear(width, n_characters)

    def start(self, x):
        return self.embed(x) + self.places

    def forward(self, z, x):
        q, k, v = self.keys(z).chunk(3, dim=-1)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        z = self.norms[0](x + self.mix(mixed))
        return self.norms[1](z + self.outer(functional.gelu(self.inner(z))))


class Graph(nn.Module):
    """z -> tanh(A z W + U x) on nodes; A is the normalised adjacency matrix."""

    batch_dims = 0

    def __init__(self, links, width=32):
        super().__init__()
        self.links = links
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(64, width)
        self.head = nn.Linear(width, 10)

    def start(self, x):
        return self.outer(x.flatten(1))

    def forward(self, z, x):
        return torch.tanh(self.links @ self.inner(z) + x)


def digits(n):
    """Return images of shape (n, 1, 8, 8) and labels."""
    bunch = datasets.load_digits()
    images = torch.tensor(bunch.images[:n, None] / 8 - 1, dtype=torch.float32)
    return images, torch.tensor(bunch.target[:n])


def characters(length):
    """Return windows of a text as numbers, of shape (n, length + 1), and how many numbers."""
    loaders = (datasets.load_digits, datasets.load_diabetes, datasets.load_breast_cancer)
    text = "".join(load().DESCR for load in loaders)
    alphabet = {letter: i for i, letter in enumerate(sorted(set(text)))}
    codes = torch.tensor([alphabet[letter] for letter in text])
    return codes.unfold(0, length + 1, length // 2), len(alphabet)


def neighbours(images, k=5):
    """Return the adjacency matrix of the nearest images, of spectral norm at most 1."""
    distances = torch.cdist(images.flatten(1), images.flatten(1))
    nearest = distances.argsort(1)[:, : k + 1]
    links = torch.zeros_like(distances).scatter_(1, nearest, 1)
    links = ((links + links.T) > 0).float()
    degrees = links.sum(1)
    return links / (degrees[:, None] * degrees).sqrt()


class Task:
    """A layer, batches of inputs and labels for it, and a loss."""

    def __init__(self, name, batch):
        self.name = name
        if name == "characters":
            windows, n_characters = characters(length=24)
            self.make = partial(Attention, n_characters, 24)
            self.x, self.y = windows[:, :-1], windows[:, 1:]
        else:
            self.x, self.y = digits(400 if name == "graph" else 1500)
            layers = {"perceptron": Perceptron, "convolution": Convolution}
            links = neighbours(self.x) if name == "graph" else None
            self.make = layers.get(name, partial(Graph, links))
        self.batch = len(self.x) if name == "graph" else batch

    def batches(self, seed):
        """Yield the numbers of the examples of a batch for ever."""
        generator = torch.Generator().manual_seed(seed)
        while True:
            order = torch.randperm(len(self.x), generator=generator)
            if self.batch == len(order):
                yield order.sort().values  # the nodes of a graph
            else:
                yield from order.split(self.batch)[: len(order) // self.batch]

    def loss(self, f, z, rows):
        """Return the mean cross-entropy; of a graph, over every fourth node."""
        scores, labels = f.head(z), self.y[rows]
        if self.name == "graph":
            scores, labels = scores[::4], labels[::4]
        return functional.cross_entropy(scores.flatten(0, -2), labels.flatten())

    def run(self, f, deq, rows):
        """Return the loss and what is known of the solve."""
        x = f.start(self.x[rows])
        aware = {"outer_grad": partial(self.outer_grad, f, rows)} if deq.takes_outer_grad else {}
        z, info = deq(torch.zeros_like(x), x, **aware)
        return self.loss(f, z, rows), info

    def outer_grad(self, f, rows, z):
        z = z.detach().requires_grad_()
        return torch.autograd.grad(self.loss(f, z, rows), z)[0]


def layer(f, how):
    return DEQ(f, batch_dims=f.batch_dims, max_iter=18, tol=1e-3, **how)


def train(task, how, steps, seed):
    """Return a trained layer, the mean loss of the last tenth of its training, and its seconds."""
    torch.manual_seed(seed)
    start = time.process_time()
    f = task.make()
    deq = layer(f, how)
    optimizer = torch.optim.Adam(f.parameters(), lr=3e-3)
    losses = []
    for _, rows in zip(range(steps), task.batches(seed), strict=False):
        optimizer.zero_grad()
        loss, _ = task.run(f, deq, rows)
        loss.backward()
        nn.utils.clip_grad_norm_(f.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    last = losses[-max(steps // 10, 1) :]
    return f, statistics.mean(last), time.process_time() - start


def gradient(task, f, how, rows):
    """Return the gradient of all parameters as a vector, its products, and the seconds it took."""
    deq = layer(f, how)
    task.run(f, deq, rows)  # looks whether rows are separate, once
    f.zero_grad(set_to_none=True)
    start = time.process_time()
    loss, info = task.run(f, deq, rows)
    loss.backward()
    seconds = time.process_time() - start
    parts = [p.grad.flatten() for p in f.parameters() if p.grad is not None]
    return torch.cat(parts), info.backward.n_vjp, seconds


def compare(task, f, names, rows):
    """Return cosine, distance, products and relative time of each method on a batch."""
    exact, *_ = gradient(task, f, REFERENCE, rows)
    _, _, unit = gradient(task, f, METHODS["jacobian-free"], rows)
    found = {}
    for name in names:
        how = METHODS[name]
        expected = exact
        if "solver" in how:  # another solver has another z
            expected, *_ = gradient(task, f, {**REFERENCE, "solver": how["solver"]}, rows)
        g, products, seconds = gradient(task, f, how, rows)
        distance = (g - expected).norm() / expected.norm()
        cosine = functional.cosine_similarity(g, expected, dim=0)
        found[name] = (cosine.item(), distance.item(), products, seconds / unit)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    tasks = ["perceptron", "convolution", "characters", "graph"]
    parser.add_argument("--tasks", nargs="+", choices=tasks, default=tasks)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300, help="of each training")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--batches", type=int, default=4, help="on which gradients are compared")
    parser.add_argument("--no-training", action="store_true", help="compare gradients alone")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work")
    options = parser.parse_args()
    if options.quick:
        options.steps, options.batches, options.batch = options.steps // 4, 2, options.batch // 2
    torch.set_num_threads(1)
    for name in options.tasks:
        report(name, options)


def report(name, options):
    task = Task(name, options.batch)
    rows = {method: [] for method in options.methods}
    trainings = {method: [] for method in options.methods}
    for seed in range(options.seeds):
        f, *_ = train(task, {"backward": "implicit"}, options.steps, seed)
        for _, batch in zip(range(options.batches), task.batches(100 + seed), strict=False):
            for method, numbers in compare(task, f, options.methods, batch).items():
                rows[method].append(numbers)
        for method in [] if options.no_training else options.methods:
            trainings[method].append(train(task, METHODS[method], options.steps, seed)[1:])
    print(f"\n{name}, {options.seeds} seeds, {options.steps} steps", flush=True)
    heads = f"{'cosine':>8}{'[quartiles]':>16}{'distance':>10}{'products':>10}{'time':>7}"
    print(f"{'':26}{heads}{'loss':>8}{'spread':>8}{'seconds':>9}")
    for method in options.methods:
        print(f"{method:26}" + gradients(rows[method]) + training(trainings[method]), flush=True)


def gradients(rows):
    """Return the cells on the gradients of a method."""
    columns = list(zip(*rows, strict=True))
    cosine, distance, products, seconds = map(statistics.median, columns)
    cosines = columns[0] if len(rows) > 1 else 2 * columns[0]
    lower, _, upper = statistics.quantiles(cosines, n=4, method="inclusive")
    quartiles = f"[{lower:.3f}, {upper:.3f}]"
    return f"{cosine:8.3f}{quartiles:>16}{distance:10.2g}{products:10.0f}{seconds:7.2f}"


def training(runs):
    """Return the cells on the trainings by a method, if there were any."""
    if not runs:
        return ""
    losses, seconds = zip(*runs, strict=True)
    spread = statistics.stdev(losses) if len(losses) > 1 else 0.0
    return f"{statistics.mean(losses):8.3f}{spread:8.3f}{statistics.mean(seconds):9.2f}"


if __name__ == "__main__":
    main()
