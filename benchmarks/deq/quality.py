"""How well each backward method estimates the implicit one, on a trained multiscale DEQ.

    hoag-shine-deq train --config small --data DATA --output FOLDER --seed 0
    python benchmarks/deq/quality.py --run FOLDER [FOLDER ...] --data DATA

For test images, every solver finds a z; there u solves (I - J^T) u = dL/dz by GMRES to 1e-6, and
every estimate of u is compared with it, sample by sample, by the cosine and by the ratio of norms.
Printed are medians and quartiles over the samples of all runs, and the smallest and the largest
median cosine of a run.
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from torch.nn import functional

from hoag_shine.deq import FlatMap, Layout, Linearisation, Stopping, spectral_radius
from hoag_shine.deq.backward import (
    auto,
    implicit,
    jacobian_free,
    phantom,
    shine,
    with_fallback,
    with_refinement,
)
from hoag_shine.deq.solvers import adjoint_broyden, broyden
from hoag_shine.deq.training import load_images, load_model

FORWARDS = {
    "Broyden": (broyden, False),
    "adjoint Broyden": (adjoint_broyden, False),
    "adjoint Broyden, OPA 5": (partial(adjoint_broyden, opa_every=5), True),
    "adjoint Broyden, OPA 1": (partial(adjoint_broyden, opa_every=1), True),
}
METHODS = {
    "jacobian-free": jacobian_free,
    "phantom 5": phantom,
    "shine": shine,
    "shine, fallback": with_fallback(shine),
    "auto": auto,
    "jacobian-free, refine 5": with_refinement(jacobian_free, 5),
    "shine, refine 5": with_refinement(shine, 5),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", nargs="+", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--max-iter", type=int)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1 if options.device == "cpu" else torch.get_num_threads())
    models = [load(run, options) for run in options.run]
    steps = options.max_iter or models[0][0].config.max_iter
    print(
        f"{options.data}, {steps} solver steps, {options.samples} test images, {len(models)} run(s)"
    )
    for name, (solver, aware) in FORWARDS.items():
        torch.manual_seed(0)
        runs = [over_batches(*model, solver, aware, steps, options) for model in models]
        report(name, runs)


def over_batches(model, pixels, labels, solver, aware, steps, options):
    """Return what :func:`compare` finds, over all test images."""
    found = []
    for start in range(0, options.samples, options.batch):
        part = slice(start, start + options.batch)
        found.append(compare(model, pixels[part], labels[part], solver, aware, steps))
    return {name: torch.cat([one[name] for one in found], 1) for name in found[0]}


def load(run, options):
    model, normalize = load_model(Path(run))
    model = model.to(options.device).eval().requires_grad_(False)
    test = load_images(options.data)[1].first(options.samples)
    return model, normalize(test.pixels).to(options.device), test.labels.to(options.device)


def compare(model, images, labels, solver, aware, steps):
    def loss(scores):
        return functional.cross_entropy(scores, labels, reduction="sum")

    z0, *inputs = model.problem(images)
    layout = Layout.of(z0)
    outer_grad = partial(model._outer_grad, loss)
    f = FlatMap(model.transform, layout, tuple(inputs), outer_grad if aware else None)
    with torch.no_grad():
        solution = solver(f, layout.flatten(z0), Stopping(steps, 0.0))
    grad = layout.flatten(outer_grad(layout.unflatten(solution.z)))
    f = FlatMap(model.transform, layout, tuple(inputs))
    linearisation = Linearisation(f, solution.z)
    with torch.no_grad():
        exact = implicit(linearisation, solution.inverse_jacobian, grad, max_iter=100, tol=1e-6)
        found = {
            name: against(method(linearisation, solution.inverse_jacobian, grad).value, exact.value)
            for name, method in METHODS.items()
        }
    radius = spectral_radius(model.transform, layout.unflatten(solution.z), *inputs, n_iter=30)
    found["facts"] = torch.stack([solution.relative_residual, exact.residual, radius])
    return found


def against(u, exact):
    cosine = functional.cosine_similarity(u, exact, dim=1)
    return torch.stack([cosine, u.norm(dim=1) / exact.norm(dim=1)])


def report(name, runs):
    facts = torch.cat([run.pop("facts") for run in runs], 1)
    residual, solved, radius = facts.median(dim=1).values.tolist()
    print(
        f"\n{name}: residual of z {residual:.1e}, of the reference {solved:.1e}, spectral radius "
        f"{radius:.2f} (medians)"
    )
    print(
        f"{'':26}{'cosine':>8} {'[quartiles]':>14} {'[runs]':>14} {'norm ratio':>12} "
        f"{'[quartiles]':>14}"
    )
    quarters = torch.tensor([0.25, 0.5, 0.75])
    for method in METHODS:
        values = torch.cat([run[method] for run in runs], 1).cpu()
        (c1, c, c3), (r1, r, r3) = values.quantile(quarters, dim=1).T.tolist()
        medians = [run[method][0].median().item() for run in runs]
        print(
            f"{method:26}{c:8.3f} [{c1:5.2f}, {c3:5.2f}] [{min(medians):5.2f}, "
            f"{max(medians):5.2f}] {r:12.3f} [{r1:5.2f}, {r3:5.2f}]"
        )


if __name__ == "__main__":
    main()
