"""Peak memory of a forward and a backward pass against the number of solver steps, on a CPU.

    python benchmarks/deq/memory.py [--config cifar10-tiny] [--batch 32]

Every number is the growth of a process' largest resident set over what it was before the pass, in a
process of its own, in MiB. Where nothing but the solver's vectors grows with the steps, a step more
costs at most one state, whose size is printed too. With the GNU C library, the process gives the
memory of a tensor back at once: holes in it would count otherwise, up to twice of what is used.
torchdeq 0.1.0 is measured, too, if it is installed.
"""

import argparse
import os
import resource
import subprocess
import sys
from functools import partial

import torch

from hoag_shine.deq import fixed_point
from hoag_shine.deq.backward import implicit
from hoag_shine.deq.mdeq import CONFIGS, MDEQ
from hoag_shine.deq.solvers import broyden

try:
    import torchdeq
except ImportError:
    torchdeq = None

# Vector-Jacobian products of an implicit backward pass.
PRODUCTS = 20


def ours(**options):
    """Return a function that solves with this library."""

    def solve(f, z0, inputs, steps):
        return fixed_point(f, z0, *inputs, max_iter=steps, tol=0, **options)[0]

    return solve


def torchdeqs(solver, **settings):
    """Return a function that solves with torchdeq, forwards and backwards by one solver."""

    def solve(f, z0, inputs, steps):
        budget = {"f_max_iter": steps, "b_max_iter": PRODUCTS, "f_tol": 0.0, "b_tol": 0.0}
        deq = torchdeq.get_deq(f_solver=solver, b_solver=solver, **budget, **settings)
        return deq(lambda *z: f(z, *inputs), z0)[0][-1]

    return solve


def implicit_by(solver):
    return partial(implicit, solver=solver, max_iter=PRODUCTS, tol=0)


METHODS = {
    "picard, jacobian-free": ours(solver="picard", backward="jacobian-free"),
    "picard, implicit": ours(solver="picard", backward=implicit_by("picard")),
    "broyden, implicit": ours(solver="broyden", backward=implicit_by("broyden")),
    "anderson, GMRES": ours(solver="anderson", backward=implicit_by("gmres")),
    "broyden, auto": ours(solver="broyden", backward="auto"),
    "broyden, memory 5, shine": ours(solver=partial(broyden, memory=5), backward="shine"),
    "broyden, shine": ours(solver="broyden", backward="shine"),
    "adjoint broyden, shine": ours(solver="adjoint-broyden", backward="shine"),
    "unrolled": ours(backward="unrolled"),
}
if torchdeq is not None:
    METHODS |= {
        "torchdeq: picard, implicit": torchdeqs("fixed_point_iter", ift=True),
        "... with hook_ift": torchdeqs("fixed_point_iter", ift=True, hook_ift=True),
        "torchdeq: broyden, implicit": torchdeqs("broyden", ift=True),
        "... with hook_ift too": torchdeqs("broyden", ift=True, hook_ift=True),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", choices=CONFIGS, default="cifar10-tiny")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 10, 20, 40])
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        name, steps = options.one
        print(growth(METHODS[name], int(steps), options))
        return
    model, images = setup(options)
    state = sum(part.numel() * part.element_size() for part in model.problem(images)[0])
    print(f"{options.config}, batch {options.batch}: a state takes {state / 2**20:.1f} MiB")
    print(f"{'steps':28}" + "".join(f"{steps:8d}" for steps in options.steps))
    for name in METHODS:
        found = [alone(name, steps) for steps in options.steps]
        print(f"{name:28}" + "".join(f"{megabytes:8.0f}" for megabytes in found), flush=True)


def alone(name, steps):
    command = [sys.executable, *sys.argv, "--one", name, str(steps)]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}  # bytes
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return float(done.stdout)


def setup(options):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = MDEQ(CONFIGS[options.config])
    return model, torch.randn(options.batch, model.config.in_channels, 32, 32)


def growth(solve, steps, options):
    model, images = setup(options)
    one_pass(model, images[:2], solve, 1)  # what PyTorch itself loads and allocates at first use
    before = resident()
    one_pass(model, images, solve, steps)
    return resident() - before


def one_pass(model, images, solve, steps):
    z0, injection, fixed = model.problem(images)
    z = solve(model.transform, z0, (injection.detach(), fixed), steps)
    sum(part.square().mean() for part in z).backward()


def resident():
    """Return the largest resident set so far, in MiB."""
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    main()
