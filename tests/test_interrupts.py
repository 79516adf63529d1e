"""Ctrl-C, at any line of a search: it ends with a whole result, or as it was before."""

import os
import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="a signal to oneself is POSIX")


def press_ctrl_c(*_):
    os.kill(os.getpid(), signal.SIGINT)


# Interrupts fits at every k-th line of the package that a fit comes by, once or several times.
EVERYWHERE = """
import os, pathlib, signal, sys, warnings
import numpy as np
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
import hoag_shine
from hoag_shine import Outcome, ShineCV

n_jobs, times, most = map(int, sys.argv[1:])
package = str(pathlib.Path(hoag_shine.__file__).parent)
warnings.simplefilter("ignore")
X = load_iris().data[50:]
y, other = np.repeat(["a", "b"], 50), np.repeat(["x", "y"], 50)


def fitted_attributes(search):
    return {name for name in vars(search) if name.endswith("_")}


def check_whole(search, X, y):
    assert fitted_attributes(search) == names, fitted_attributes(search) ^ names
    assert search.n_features_in_ == X.shape[1]
    assert len(search.history_) == search.n_iter_ == len(search.cv_results_["mean_test_score"])
    best = search.history_[search.best_index_]
    assert search.best_params_ == best["params"]
    assert all(record.keys() == best.keys() for record in search.history_)
    assert search.best_estimator_.C == search.best_params_["C"]
    assert np.isfinite(search.best_score_)
    assert search.score(X, y) > 0.6


def new():
    return ShineCV(
        LogisticRegression(), cv=2, n_jobs=n_jobs, scoring="accuracy", max_iter=3, tol=0.3
    )


def run(search, press):
    # Fits, and calls ``press`` at each line until it says that this was all.
    def trace(frame, event, argument):
        if not frame.f_code.co_filename.startswith(package):
            return None
        if event == "line" and press((frame.f_code.co_filename, frame.f_lineno)):
            sys.settrace(None)
        return trace

    sys.settrace(trace)
    try:
        search.fit(X, y)
    finally:
        sys.settrace(None)


lines = {}
search = new()
run(search, lambda line: lines.setdefault(line, False))
names = fitted_attributes(search)
check_whole(search, X, y)
raised = interrupted = 0
for wanted in list(lines)[:: max(1, len(lines) // most)]:
    left = times

    def press(line):
        global left
        if left < times or line == wanted:
            left -= 1
            os.kill(os.getpid(), signal.SIGINT)
        return left == 0

    search = new().fit(X[:, :2], other)
    before = dict(vars(search))
    try:
        run(search, press)
    except KeyboardInterrupt:
        raised += 1
    else:
        interrupted += search.outcome_ is Outcome.INTERRUPTED
    now = vars(search)
    if now.keys() == before.keys() and all(now[name] is before[name] for name in now):
        check_whole(search, X[:, :2], other)
    else:
        check_whole(search, X, y)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
print(len(lines), raised, interrupted)
"""


@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_an_interrupt_at_any_line_leaves_something_whole(n_jobs, times):
    command = [sys.executable, "-c", EVERYWHERE, str(n_jobs), str(times), "60"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
