"""Peak memory of a forward and a backward pass against the number of solver steps, on a CPU.

    python benchmarks/deq/memory.py [--config cifar10-tiny] [--batch 32]

Every number is the growth of a process' largest resident set over what it was before the pass, in a
process of its own, in MiB. Where nothing but the solver's vectors grows with the steps, a step more
costs at most one state, whose size is printed too.
"""

import argparse
import resource
import subprocess
import sys
from functools import partial

import torch

from hoag_shine.deq import fixed_point
from hoag_shine.deq.mdeq import CONFIGS, MDEQ
from hoag_shine.deq.solvers import adjoint_broyden, broyden

METHODS = {
    "picard, jacobian-free": {"solver": "picard", "backward": "jacobian-free"},
    "anderson, implicit": {"solver": "anderson", "backward": "implicit"},
    "broyden, memory 5, shine": {"solver": partial(broyden, memory=5), "backward": "shine"},
    "broyden, shine": {"solver": "broyden", "backward": "shine"},
    "adjoint broyden, shine": {"solver": adjoint_broyden, "backward": "shine"},
    "unrolled": {"backward": "unrolled"},
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
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def setup(options):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = MDEQ(CONFIGS[options.config])
    return model, torch.randn(options.batch, model.config.in_channels, 32, 32)


def growth(how, steps, options):
    model, images = setup(options)
    z0, injection, fixed = model.problem(images)
    inputs = (injection.detach(), fixed)
    with torch.no_grad():
        model.transform(z0, *inputs)  # what PyTorch itself allocates at first use
    before = resident()
    z, _ = fixed_point(model.transform, z0, *inputs, max_iter=steps, tol=0, **how)
    sum(part.square().mean() for part in z).backward()
    return resident() - before


def resident():
    """Return the largest resident set so far, in MiB."""
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    main()
