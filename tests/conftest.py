"""What every test needs before it is collected."""

import os

import matplotlib as mpl
from hypothesis import settings

mpl.use("Agg")  # no display on a build machine

# The first call of a numba kernel compiles it, so no example has a deadline. On a build machine
# the same examples are drawn in every run.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", settings.get_profile("default"), derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "default")
