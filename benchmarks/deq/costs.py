"""Where the time of a DEQ goes: solver, f and each backward pass.

    python benchmarks/deq/costs.py                                        one CPU thread
    python benchmarks/deq/costs.py --config cifar10-tiny cifar10-large --amp no bf16 \
        --batch 128 --device cuda                                         a GPU

Every round runs everything in turn; medians over the rounds are printed, in units of one call of f
without a graph, and the distance of their quartiles as a share of the median. On a CPU the clock is
the processor time of this process, so that other processes count less; on a GPU it is the device's
own, and the peak of the memory beyond what the model and the images take is printed too.
"""

import argparse
import statistics
import time
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch

from hoag_shine.deq import fixed_point
from hoag_shine.deq.backward import implicit, phantom
from hoag_shine.deq.mdeq import CONFIGS, MDEQ

BACKWARDS = {
    "shine": {"backward": "shine"},
    "auto": {"backward": "auto"},
    "shine, fallback": {"backward": "shine", "fallback": "residual"},
    "shine, refine 5": {"backward": "shine", "refine": 5},
    "jacobian-free": {"backward": "jacobian-free"},
    "phantom 5": {"backward": partial(phantom, steps=5)},
    "implicit": {"backward": partial(implicit, max_iter=20, tol=0)},
    "implicit, Broyden": {"backward": partial(implicit, solver="broyden", max_iter=20, tol=0)},
}


@dataclass
class Cost:
    """What one call took."""

    seconds: float
    peak: float  # MiB
    in_f: float = 0.0
    calls: int = 0


class Clock:
    """Moments of processor time on a CPU, of the device's time on a GPU, where nothing waits."""

    def __init__(self, device):
        self.on_cpu = device == "cpu"

    def now(self):
        if self.on_cpu:
            return time.process_time()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, start, end):
        if self.on_cpu:
            return end - start
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    def cost(self, run):
        if not self.on_cpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
        start = self.now()
        run()
        seconds = self.between(start, self.now())
        peak = float("nan")
        if not self.on_cpu:
            peak = (torch.cuda.max_memory_allocated() - held) / 2**20
        return Cost(seconds, peak)


class Timed:
    """f, with the moments at which it is called and returns."""

    def __init__(self, f, clock):
        self.f, self.clock, self.moments = f, clock, []

    def __call__(self, *arguments):
        start = self.clock.now()
        result = self.f(*arguments)
        self.moments.append((start, self.clock.now()))
        return result


def solve(f, z0, inputs, steps, solver):
    options = {"solver": solver, "backward": "jacobian-free", "max_iter": steps, "tol": 0}
    fixed_point(f, z0, *inputs, check_separable=False, **options)  # f is a new one each time


def forward(solver, f, z0, inputs, steps, clock):
    timed = Timed(f, clock)
    with torch.no_grad():
        cost = clock.cost(lambda: solve(timed, z0, inputs, steps, solver))
    cost.in_f = sum(clock.between(*moments) for moments in timed.moments)
    cost.calls = len(timed.moments)
    return cost


def backward(options, f, z0, inputs, steps, clock):
    z, info = fixed_point(f, z0, *inputs, max_iter=steps, tol=0, **options)
    loss = sum(part.float().square().mean() for part in z)
    cost = clock.cost(loss.backward)
    cost.calls = info.backward.n_vjp
    f.zero_grad(set_to_none=True)
    return cost


def setup(config, options):
    torch.manual_seed(0)
    model = MDEQ(CONFIGS[config]).to(options.device)
    shape = (options.batch, model.config.in_channels, options.size, options.size)
    images = torch.randn(shape, device=options.device)
    if options.channels_last:
        model = model.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    return model, images


def measure(config, amp, options):
    clock = Clock(options.device)
    model, images = setup(config, options)
    rounds = []
    with torch.autocast(options.device, torch.bfloat16, enabled=amp == "bf16"):
        with torch.no_grad():
            z0, injection, _ = model.problem(images)
        f = model.transform
        for _ in range(options.rounds + 1):  # the first warms up
            costs = {}
            for name in ("broyden", "anderson", "picard"):
                inputs = (injection, f.fix(z0))
                costs[name] = forward(name, f, z0, inputs, options.steps, clock)
            for name, how in BACKWARDS.items():
                inputs = (injection, f.fix(z0))  # backward frees the graph of these weights
                cost = backward(how, f, z0, inputs, options.steps, clock)
                costs[f"backward {name}"] = cost
            rounds.append(costs)
    report(rounds[1:], f"{config}, {'bf16' if amp == 'bf16' else 'float32'}", options)


def report(rounds, title, options):
    def middle(get):
        return statistics.median(get(costs) for costs in rounds)

    unit = middle(lambda c: c["broyden"].in_f / c["broyden"].calls)
    threads = f", {options.threads} thread(s)" if options.device == "cpu" else ""
    print(
        f"\n{title}, batch {options.batch}, {options.steps} steps, {options.device}{threads}"
        f"{', channels last' * options.channels_last}; unit: one f, {1e3 * unit:.1f} ms"
    )
    heads = ["units", "spread", "f or J^T", "overhead", "relative"]
    heads += ["peak MiB"] * (options.device != "cpu")
    print(f"{'':28}" + "".join(f"{head:>10}" for head in heads))
    for name in rounds[0]:
        is_backward = name.startswith("backward")
        base = "backward shine" if is_backward else "broyden"
        units = middle(lambda c, n=name: c[n].seconds) / unit
        ratio = middle(lambda c, n=name, b=base: c[n].seconds / c[b].seconds)
        own = middle(lambda c, n=name: 1 - c[n].in_f / c[n].seconds)
        share = "" if is_backward else f"{own:.1%}"
        cost = rounds[0][name]
        spread = f"{dispersion([costs[name].seconds for costs in rounds]):.1%}"
        peak = "" if options.device == "cpu" else f"{cost.peak:10.0f}"
        cells = f"{units:10.1f}{spread:>10}{cost.calls:10d}{share:>10}{ratio:10.2f}{peak}"
        print(f"{name:28}{cells}")


def dispersion(values):
    """Return the distance of the quartiles over the median."""
    if len(values) == 1:
        return 0.0
    lower, middle, upper = statistics.quantiles(values, n=4, method="inclusive")
    return (upper - lower) / middle


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", nargs="+", choices=CONFIGS, default=["cifar10-tiny"])
    parser.add_argument("--amp", nargs="+", choices=["no", "bf16"], default=["no"])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--channels-last", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for config, amp in product(options.config, options.amp):
        measure(config, amp, options)


if __name__ == "__main__":
    main()
