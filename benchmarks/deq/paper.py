"""The experiments of the SHINE paper on deep equilibrium models, one command each.

    python benchmarks/deq/paper.py accuracy --data DATA        figure 3: accuracy and backward time
    python benchmarks/deq/paper.py inversion --data DATA       figure E.2: quality of the inversion
    python benchmarks/deq/paper.py contractivity --data DATA   E.3: contractivity over training
    python benchmarks/deq/paper.py fallback --data DATA        how often the fallback is taken
    python benchmarks/deq/paper.py accuracy --quick            minutes on a processor

Results go to ``EXPERIMENT.csv`` and ``EXPERIMENT.png`` in --output, runs to folders beside them. A
command that was killed goes on where it was when it is given again. --config, --epochs, --seeds,
--methods and the rest size an experiment; the paper's own size is ``--config cifar10-large`` (or
``cifar10-tiny --no-augment --max-iter 22``) with all of CIFAR-10 and ten seeds, on a GPU.

What is not the published code: each sample stops by its own relative tolerance, where that has one
absolute norm for the whole batch (``--stop batch --tol TOL``, if wanted); refinement takes GMRES
steps from the estimate, where that continues Broyden's method; the learning rate falls to 0, where
that ends at 1e-6.
"""

import argparse
import csv
import dataclasses
import statistics
import time
from functools import partial
from pathlib import Path

import matplotlib as mpl
import torch
from torch.nn import functional

from hoag_shine.deq import FlatMap, Layout, Linearisation, Stopping, spectral_radius
from hoag_shine.deq.backward import implicit
from hoag_shine.deq.mdeq import CONFIGS, MDEQ
from hoag_shine.deq.solvers import adjoint_broyden, broyden
from hoag_shine.deq.training import Recipe, Trainer, load_images

mpl.use("agg")
import matplotlib.pyplot as plt

REFINEMENTS = (1, 2, 5, 7, 10)
METHODS = {
    "full": {"backward": "implicit"},
    "jacobian-free": {"backward": "jacobian-free"},
    "shine": {"backward": "shine", "fallback": None},
    "shine, fallback": {"backward": "shine", "fallback": "norm-ratio"},
    "auto": {"backward": "auto"},
    **{
        f"{name}, refine {k}": {"backward": name, "refine": k}
        for name in ("jacobian-free", "shine")
        for k in REFINEMENTS
    },
}
FORWARDS = {
    "Broyden": (broyden, False),
    "adjoint Broyden": (adjoint_broyden, False),
    "adjoint Broyden, OPA": (partial(adjoint_broyden, opa_every=5), True),
}


class Table:
    """Rows of a CSV file, each written at once; what is there already is not done again."""

    def __init__(self, path, columns, keys):
        self.path, self.columns, self.keys = path, columns, keys
        if not path.exists():
            path.write_text(",".join(columns) + "\n")
        with path.open(newline="") as file:
            # The last line may have been cut.
            self.rows = [row for row in csv.DictReader(file) if row[columns[-1]]]

    def has(self, *key):
        return any(
            tuple(row[name] for name in self.keys) == tuple(map(str, key)) for row in self.rows
        )

    def add(self, **row):
        self.rows.append({name: str(value) for name, value in row.items()})
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(self.rows)

    def column(self, name, **where):
        wanted = [r for r in self.rows if all(r[key] == str(v) for key, v in where.items())]
        return [float(row[name]) for row in wanted]

    def values(self, name):
        return list(dict.fromkeys(row[name] for row in self.rows))


class Bench:
    """The data, the size of a run, and where things go."""

    def __init__(self, options):
        self.options = options
        self.folder = options.output
        self.folder.mkdir(parents=True, exist_ok=True)
        train, test = load_images(options.data)
        self.train, self.test = train.first(options.limit), test.first(options.test_limit)
        sizes = ("epochs", "pretrain_steps", "max_iter", "tol", "stop")
        given = {name: getattr(options, name) for name in sizes}
        self.config = dataclasses.replace(
            CONFIGS[options.config],
            in_channels=train.pixels.shape[1],
            n_classes=int(train.labels.max()) + 1,
            **{name: value for name, value in given.items() if value is not None},
        )

    def trainer(self, method, seed, **how):
        """Return a trainer, which has taken up what an earlier command left."""
        torch.manual_seed(seed)
        steps = self.config.epochs * (len(self.train) // self.config.batch_size)
        recipe = Recipe(
            seed=seed,
            log_every=max(steps // self.options.points, 1),
            device=self.options.device,
            augment=not self.options.no_augment,
            flip=not self.options.no_augment,
            tensorboard=False,
        )
        folder = self.folder / f"{method.replace(', ', '-').replace(' ', '-')}-seed{seed}"
        trainer = Trainer(MDEQ(self.config, **how), self.train, self.test, recipe, folder)
        trainer.resume()
        return trainer

    def test_batches(self, normalize, size, count):
        """Yield images and labels of the test set, on the device."""
        for start in range(0, min(size * count, len(self.test)), size):
            part = slice(start, start + size)
            images = normalize(self.test.pixels[part]).to(self.options.device)
            yield images, self.test.labels[part].to(self.options.device)

    def seconds(self, run):
        """Return the time of a call: processor time on a CPU."""
        on_cpu = self.options.device == "cpu"
        clock = time.process_time if on_cpu else time.perf_counter
        wait = (lambda: None) if on_cpu else torch.cuda.synchronize
        wait()
        start = clock()
        run()
        wait()
        return clock() - start


def accuracy(bench):
    """Figure 3: the test accuracy of models by each backward method, and what that costs."""
    columns = ["method", "seed", "accuracy", "loss", "forward ms", "backward ms"]
    table = Table(bench.folder / "accuracy.csv", columns, ["method", "seed"])
    for seed in range(bench.options.seeds):
        for method in bench.options.methods:
            if table.has(method, seed):
                continue
            trainer = bench.trainer(method, seed, **METHODS[method])
            trainer.run()
            scores = trainer.evaluate()
            forward, backward = times(bench, trainer)
            table.add(
                method=method,
                seed=seed,
                accuracy=scores["test_accuracy"],
                loss=scores["test_loss"],
                **{"forward ms": 1e3 * forward, "backward ms": 1e3 * backward},
            )
    fig, ax = plt.subplots()
    print(f"{'':28}{'accuracy':>9}{'spread':>8}{'loss':>8}{'forward':>9}{'backward':>10} (ms)")
    for i, method in enumerate(table.values("method")):
        found, slow = (table.column(n, method=method) for n in ("accuracy", "backward ms"))
        others = [statistics.mean(table.column(n, method=method)) for n in ("loss", "forward ms")]
        spread = statistics.stdev(found) if len(found) > 1 else 0.0
        mean, cost = statistics.mean(found), statistics.median(slow)
        print(f"{method:28}{mean:9.4f}{spread:8.4f}{others[0]:8.3f}{others[1]:9.1f}{cost:10.1f}")
        marker = "os^"[i // 10 % 3]  # there are ten colours
        ax.errorbar(cost, mean, yerr=spread, marker=marker, color=f"C{i % 10}", label=method)
    ax.set(xlabel="backward pass (ms a batch)", ylabel="test accuracy", xscale="log")
    return fig


def times(bench, trainer):
    """Return the median seconds of forward and backward passes, the first left out."""
    model, size = trainer.module.train(), bench.config.batch_size
    found = []
    for images, labels in bench.test_batches(trainer.normalize, size, bench.options.batches + 1):
        losses = []

        def forward(images=images, labels=labels, losses=losses):
            losses.append(functional.cross_entropy(model(images).scores, labels))

        found.append((bench.seconds(forward), bench.seconds(losses[0].backward)))
        model.zero_grad(set_to_none=True)
    return (statistics.median(column) for column in zip(*(found[1:] or found), strict=True))


def inversion(bench):
    """Figure E.2: estimates of the inverse times the loss's gradient, and a random direction."""
    columns = ["seed", "batch", "forward", "method", "direction", "sample", "cosine", "norm ratio"]
    table = Table(bench.folder / "inversion.csv", columns, ["seed", "batch"])
    for seed in range(bench.options.seeds):
        trainer = bench.trainer("full", seed, **METHODS["full"])
        trainer.run()
        batches = bench.test_batches(trainer.normalize, 32, bench.options.batches)
        for i, (images, labels) in enumerate(batches):
            if not table.has(seed, i):
                rows = list(inverted(bench, trainer.module.eval(), images, labels))
                for row in rows[:-1]:
                    table.rows.append({"seed": str(seed), "batch": str(i), **row})
                table.add(seed=seed, batch=i, **rows[-1])  # all at once: a batch is there or not
    directions = ["gradient", "random"]
    fig, axes = plt.subplots(1, 2, sharey=True, figsize=(9, 4))
    print(f"{'':36}{'direction':>10}{'cosine':>8}{'norm ratio':>12} (medians)")
    for ax, direction in zip(axes, directions, strict=True):
        for name in FORWARDS:
            for method in ("shine", "jacobian-free"):
                where = {"forward": name, "method": method, "direction": direction}
                cosines, ratios = (table.column(n, **where) for n in ("cosine", "norm ratio"))
                label = f"{method}, {name}"
                middle = statistics.median(cosines), statistics.median(ratios)
                print(f"{label:36}{direction:>10}{middle[0]:8.3f}{middle[1]:12.3f}")
                ax.scatter(ratios, cosines, s=5, label=label)
        ax.set(title=f"direction: {direction}", xlabel="ratio of norms", ylabel="cosine")
    return fig


def inverted(bench, model, images, labels):
    """Yield a row for every forward solver, estimate, direction and sample."""

    def loss(scores):
        return functional.cross_entropy(scores, labels, reduction="sum")

    with torch.no_grad():
        z0, *inputs = model.problem(images)
    layout = Layout.of(z0)
    outer_grad = partial(model._outer_grad, loss)
    for name, (solver, aware) in FORWARDS.items():
        f = FlatMap(model.transform, layout, tuple(inputs), outer_grad if aware else None)
        with torch.no_grad():
            solution = solver(f, layout.flatten(z0), Stopping(bench.config.max_iter, 0.0))
        gradient = layout.flatten(outer_grad(layout.unflatten(solution.z)))
        linearisation = Linearisation(f, solution.z)
        for direction, v in {"gradient": gradient, "random": torch.randn_like(gradient)}.items():
            with torch.no_grad():
                exact = implicit(linearisation, None, v, max_iter=60, tol=1e-6).value
                estimates = {"shine": solution.inverse_jacobian.rmatvec(v), "jacobian-free": v}
            for method, u in estimates.items():
                cosines = functional.cosine_similarity(u, exact, dim=1).tolist()
                ratios = (u.norm(dim=1) / exact.norm(dim=1)).tolist()
                for i, (cosine, ratio) in enumerate(zip(cosines, ratios, strict=True)):
                    yield {
                        "forward": name,
                        "method": method,
                        "direction": direction,
                        "sample": str(i),
                        "cosine": str(cosine),
                        "norm ratio": str(ratio),
                    }


def contractivity(bench):
    """E.3: the spectral radius of the Jacobian at fixed points of test images, over training."""
    columns = ["method", "seed", "step", "residual", "radius", "largest radius"]
    table = Table(bench.folder / "contractivity.csv", columns, ["method", "seed", "step"])
    for seed in range(bench.options.seeds):
        for method in bench.options.methods:
            # A run of its own: others would be at their end already.
            trainer = bench.trainer(f"watched {method}", seed, **METHODS[method])
            every = max(trainer.total_steps // bench.options.points, 1)

            def look(step, row, trainer=trainer, seed=seed, every=every, method=method):
                wanted = step % every == 0 or step == trainer.total_steps
                if wanted and not table.has(method, seed, step):
                    table.add(method=method, seed=seed, step=step, **contraction(bench, trainer))

            look(trainer.step, {})  # the start, or a step after which the command was killed
            trainer.run(look)
    fig, ax = plt.subplots()
    print(f"{'':28}{'seed':>5}{'step':>8}{'residual':>10}{'radius':>8}{'largest':>9}")
    for row in table.rows:
        residual, radius, largest = (float(row[name]) for name in columns[3:])
        head = f"{row['method']:28}{row['seed']:>5}{row['step']:>8}"
        print(f"{head}{residual:10.1e}{radius:8.3f}{largest:9.3f}")
    for i, method in enumerate(table.values("method")):
        for seed in table.values("seed"):
            steps, radii = (table.column(n, method=method, seed=seed) for n in ("step", "radius"))
            label = method if seed == table.rows[0]["seed"] else None  # a colour for all seeds
            ax.plot(steps, radii, color=f"C{i}", label=label)
    ax.axhline(1, color="grey", linewidth=0.5)
    ax.set(xlabel="training step", ylabel="spectral radius (median)")
    return fig


def contraction(bench, trainer):
    """Return medians over a batch of test images, and the largest radius."""
    model = trainer.module.eval()
    images, _ = next(bench.test_batches(trainer.normalize, 32, 1))
    with torch.no_grad():
        z0, *inputs = model.problem(images)
        z, info = model.deq(z0, *inputs)
    generator = torch.Generator(bench.options.device).manual_seed(0)
    radius = spectral_radius(model.transform, z, *inputs, n_iter=30, generator=generator)
    return {
        "residual": info.relative_residual.median().item(),
        "radius": radius.median().item(),
        "largest radius": radius.max().item(),
    }


def fallback(bench):
    """How large a share of the samples gets the Jacobian-free estimate, over training."""
    columns = ["seed", "step", "share"]
    table = Table(bench.folder / "fallback.csv", columns, ["seed", "step"])
    for seed in range(bench.options.seeds):
        trainer = bench.trainer("shine, fallback", seed, **METHODS["shine, fallback"])
        trainer.run()
        with (trainer.folder / "log.csv").open(newline="") as file:
            logged = [row for row in csv.DictReader(file) if row["fell_back"]]
        for row in logged:
            step = int(float(row["step"]))
            if not table.has(seed, step):
                table.add(seed=seed, step=step, share=row["fell_back"])
    fig, ax = plt.subplots()
    for seed in table.values("seed"):
        steps, shares = (table.column(n, seed=seed) for n in ("step", "share"))
        print(f"seed {seed}: mean share {statistics.mean(shares):.4f}, largest {max(shares):.4f}")
        ax.plot(steps, shares, label=f"seed {seed}")
    ax.set(xlabel="training step", ylabel="share of samples that fell back")
    return fig


EXPERIMENTS = {
    "accuracy": accuracy,
    "inversion": inversion,
    "contractivity": contractivity,
    "fallback": fallback,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--data", default="sklearn:digits")
    parser.add_argument("--output", type=Path, default=Path("deq-paper"))
    parser.add_argument("--config", choices=CONFIGS)
    parser.add_argument("--limit", type=int, help="number of training images")
    parser.add_argument("--test-limit", type=int)
    for name in ("epochs", "pretrain-steps", "max-iter"):
        parser.add_argument(f"--{name}", type=int, help="instead of the config's")
    parser.add_argument("--tol", type=float, help="instead of the config's")
    parser.add_argument("--stop", choices=["relative", "absolute", "batch"])
    parser.add_argument("--seeds", type=int, help="default: 10, or 2 with --quick")
    parser.add_argument("--methods", nargs="+", choices=METHODS)
    parser.add_argument("--batches", type=int, default=5, help="that are timed or inverted")
    parser.add_argument(
        "--points", type=int, default=20, help="in training, for logs and contractivity"
    )
    parser.add_argument("--no-augment", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--quick", action="store_true", help="the digits model, two epochs, no augmentation"
    )
    options = parser.parse_args()
    size = ("digits", 2, 2) if options.quick else ("cifar10-tiny", None, 10)
    names = ("config", "epochs", "seeds")
    options.no_augment = options.no_augment or options.quick  # a mirrored 2 is no 2
    for name, value in zip(names, size, strict=True):
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.methods is None:
        few = ["full", "shine", "jacobian-free"]
        options.methods = few if options.experiment == "contractivity" else list(METHODS)
    torch.set_num_threads(1 if options.device == "cpu" else torch.get_num_threads())
    fig = EXPERIMENTS[options.experiment](Bench(options))
    fig.axes[-1].legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(1.01, 1))
    fig.savefig(options.output / f"{options.experiment}.png", dpi=150, bbox_inches="tight")


if __name__ == "__main__":
    main()
