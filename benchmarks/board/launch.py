"""The command benchopt, with a clock that counts the work of this process and nothing else."""

import time
from types import SimpleNamespace

import jax
from benchopt import callback, stopping_criterion
from benchopt.cli import benchopt as command

# The clock is read when the work is done, not when it has been handed to another thread.
jax.config.update("jax_cpu_enable_async_dispatch", False)
# Processor time, so that other programs on the machine do not count.
callback.time = SimpleNamespace(perf_counter=time.process_time)
stopping_criterion.time = SimpleNamespace(time=time.process_time)

if __name__ == "__main__":
    command()
