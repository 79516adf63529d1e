"""Where the time of a DEQ goes: solver, f and each backward pass, against torchdeq where installed.

    python benchmarks/deq/speed.py [--config cifar10-tiny] [--batch 32] [--device cpu] [--amp bf16]

Every round runs everything in turn; medians over the rounds are printed, as ratios. On a CPU the
clock is the processor time of one thread, so that other processes count less.
"""

import argparse
import statistics
import time
from functools import partial

import torch

from hoag_shine.deq import fixed_point
from hoag_shine.deq.backward import implicit
from hoag_shine.deq.mdeq import CONFIGS, MDEQ

BACKWARDS = {
    "shine": "shine",
    "jacobian-free": "jacobian-free",
    "phantom": "phantom",
    "implicit": partial(implicit, max_iter=20, tol=0),
    "implicit, Broyden": partial(implicit, solver="broyden", max_iter=20, tol=0),
}


class Clock:
    """Seconds of processor time on a CPU, of the device elsewhere."""

    def __init__(self, device):
        self.on_cpu = device == "cpu"

    def __call__(self):
        if self.on_cpu:
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()


class Timed:
    """f, with the time spent in it."""

    def __init__(self, f, clock):
        self.f, self.clock, self.seconds, self.calls = f, clock, 0.0, 0

    def __call__(self, *arguments):
        start = self.clock()
        result = self.f(*arguments)
        self.seconds += self.clock() - start
        self.calls += 1
        return result


def forward_ours(f, z0, inputs, steps, clock, solver="broyden"):
    timed = Timed(f, clock)
    start = clock()
    with torch.no_grad():
        fixed_point(
            timed, z0, *inputs, solver=solver, backward="jacobian-free", max_iter=steps, tol=0
        )
    return clock() - start, timed


def forward_torchdeq(f, z0, inputs, steps, clock):
    from torchdeq import get_deq

    deq = get_deq(f_solver="broyden", f_max_iter=steps, f_tol=0.0).eval()
    timed = Timed(f, clock)
    start = clock()
    with torch.no_grad():
        deq(lambda *z: timed(z, *inputs), z0)
    return clock() - start, timed


def backward_times(f, z0, inputs, steps, clock):
    seconds = {}
    for name, method in BACKWARDS.items():
        z, _ = fixed_point(f, z0, *inputs, backward=method, max_iter=steps, tol=0)
        loss = sum(part.square().mean() for part in z)
        start = clock()
        loss.backward(retain_graph=True)
        seconds[name] = clock() - start
        f.zero_grad(set_to_none=True)
    return seconds


def forwards():
    found = {
        "broyden": forward_ours,
        "anderson": partial(forward_ours, solver="anderson"),
        "picard": partial(forward_ours, solver="picard"),
    }
    try:
        import torchdeq  # noqa: F401
    except ImportError:
        print("torchdeq is not installed: no comparison with it")
    else:
        found["torchdeq broyden"] = forward_torchdeq
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", choices=CONFIGS, default="cifar10-tiny")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--amp", choices=["bf16"])
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--no-backward", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    clock = Clock(options.device)
    model = MDEQ(CONFIGS[options.config]).to(options.device)
    shape = (options.batch, model.config.in_channels, options.size, options.size)
    images = torch.randn(shape, device=options.device)
    if options.channels_last:
        model = model.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast(options.device, torch.bfloat16, enabled=options.amp == "bf16"):
        z0, *inputs = model.problem(images)
        inputs[0] = inputs[0].detach()
        rounds = []
        solvers = forwards()
        for _ in range(options.rounds + 1):  # the first warms up
            one = {
                name: run(model.transform, z0, inputs, options.steps, clock)
                for name, run in solvers.items()
            }
            back = (
                {}
                if options.no_backward
                else backward_times(model.transform, z0, inputs, options.steps, clock)
            )
            rounds.append((one, back))
    report(rounds[1:], options)


def report(rounds, options):
    def middle(get):
        return statistics.median(get(one, back) for one, back in rounds)

    unit = middle(lambda one, _: one["broyden"][1].seconds / one["broyden"][1].calls)
    print(
        f"{options.config}, batch {options.batch}, {options.steps} steps, {options.threads} "
        f"thread(s), {options.device}{', channels last' * options.channels_last}; "
        f"unit: one f without graph, {1e3 * unit:.1f} ms"
    )
    print(f"{'forward':20} {'units':>8} {'calls of f':>11} {'overhead':>9}  over broyden")
    for name in rounds[0][0]:
        total = middle(lambda one, _, n=name: one[n][0])
        own = middle(lambda one, _, n=name: 1 - one[n][1].seconds / one[n][0])
        ratio = middle(lambda one, _, n=name: one[n][0] / one["broyden"][0])
        calls = rounds[0][0][name][1].calls
        print(f"{name:20} {total / unit:8.1f} {calls:11d} {own:9.1%} {ratio:8.2f}")
    if rounds[0][1]:
        print(f"{'backward':20} {'units':>8}  over shine")
        for name in rounds[0][1]:
            total = middle(lambda _, back, n=name: back[n])
            ratio = middle(lambda _, back, n=name: back[n] / back["shine"])
            print(f"{name:20} {total / unit:8.2f} {ratio:8.2f}")
    if options.device != "cpu":
        print(f"peak memory {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
