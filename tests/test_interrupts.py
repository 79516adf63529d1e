"""Ctrl-C, at any line of a search: it ends with a whole result, or as it was before."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from helpers import breast_cancer, diabetes
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge

from hoag_shine import GeneralizedLinear, Outcome, ShineCV, TweedieLoss, fold_problems, hoag
from hoag_shine.utils.interrupts import Deferred, Threads

pytestmark = pytest.mark.skipif(os.name != "posix", reason="a signal to oneself is POSIX")


def press_ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


# Interrupts fits at every k-th line of the package that a fit comes by, once or several times.
EVERYWHERE = """
import os, pathlib, signal, sys, warnings
import numpy as np
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
import hoag_shine
from hoag_shine import Outcome, ShineCV
from hoag_shine.linalg import design
from hoag_shine.problems import passes

n_jobs, times, most = map(int, sys.argv[1:])
# Threads share every pass, and "auto" would make none.
design.BLOCK_BYTES, passes.SHARED_MULTIPLICATIONS = 1, 0.0
options = {"hypergradient": "cg"} if n_jobs > 1 else {}
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
        LogisticRegression(),
        cv=2,
        n_jobs=n_jobs,
        scoring="accuracy",
        max_iter=3,
        tol=0.3,
        **options,
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


@pytest.mark.parametrize(("n_jobs", "times"), [(1, 1), (2, 1), (2, 2)])
def test_an_interrupt_at_any_line_leaves_something_whole(n_jobs, times):
    command = [sys.executable, "-c", EVERYWHERE, str(n_jobs), str(times), "8"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_an_interrupt_ends_the_search_with_the_best_so_far():
    problems = fold_problems(Ridge(), *diabetes(), cv=3)
    with pytest.warns(ConvergenceWarning, match=r"interrupted.*best .* are kept"):
        result = hoag(problems, [6.0], callback=lambda *_: press_ctrl_c())
    assert result.outcome is Outcome.INTERRUPTED
    assert len(result.history) == 1
    np.testing.assert_array_equal(result.theta, [6.0])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_interrupt_is_not_waited_for():
    def callback(*_):
        press_ctrl_c()
        press_ctrl_c()
        raise AssertionError("the second interrupt did not get through")

    with pytest.raises(KeyboardInterrupt):
        hoag(fold_problems(Ridge(), *diabetes(), cv=3), callback=callback)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_threads_that_do_not_end_are_left():
    """A hypergradient that never comes is waited for, until somebody insists."""
    started, free, left = threading.Event(), threading.Event(), threading.Event()

    def slow(adjoint):
        started.set()
        assert free.wait(60)
        yield from ()

    def insist():
        started.wait(60)
        press_ctrl_c()
        left.wait(0.5)
        press_ctrl_c()

    user = threading.Thread(target=insist)
    user.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            hoag(fold_problems(Ridge(), *diabetes(), cv=3), hypergradient=slow, n_jobs=2)
    finally:
        left.set()
        free.set()
        user.join()


@pytest.mark.parametrize("ignored", [True, False])
def test_other_handlers_are_respected(ignored):
    """A handler that does not raise is called, and the search goes on to its end."""
    heard = []
    handler = signal.SIG_IGN if ignored else lambda *_: heard.append(1)
    before = signal.signal(signal.SIGINT, handler)
    try:
        problems = fold_problems(Ridge(), *diabetes(), cv=3)
        result = hoag(problems, callback=lambda *_: None if heard else press_ctrl_c())
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert result.outcome is Outcome.CONVERGED
    assert bool(heard) is not ignored


def test_other_threads_do_not_touch_the_signal():
    found = []
    X, y = diabetes()
    thread = threading.Thread(target=lambda: found.append(ShineCV(Ridge(), cv=3).fit(X, y)))
    thread.start()
    thread.join()
    assert found[0].best_params_ == ShineCV(Ridge(), cv=3).fit(X, y).best_params_


def test_an_interrupt_of_the_last_scoring_keeps_the_best():
    X, y = breast_cancer()
    calls = []

    def scoring(estimator, X, y):
        calls.append(1)
        if len(calls) == last:
            raise KeyboardInterrupt
        return estimator.score(X, y)

    last = np.inf
    search = ShineCV(LogisticRegression(), cv=3, scoring=scoring, refit="neg_criterion").fit(X, y)
    last = len(calls)
    calls.clear()
    again = ShineCV(LogisticRegression(), cv=3, scoring=scoring, refit="neg_criterion")
    with pytest.warns(ConvergenceWarning, match="interrupted"):
        again.fit(X, y)
    assert again.outcome_ is Outcome.INTERRUPTED
    assert again.best_params_ == search.best_params_
    assert again.predict(X).shape == y.shape


def failing(estimator, X, y):
    raise RuntimeError("no score")


@pytest.mark.parametrize("refit", ["neg_criterion", False])
def test_an_error_leaves_the_last_fit(refit):
    X, y = breast_cancer()
    search = ShineCV(LogisticRegression(), cv=3).fit(X[:, :3], y)
    before = {name: value for name, value in vars(search).items() if name.endswith("_")}
    search.set_params(scoring=failing, error_score="raise", refit=refit)
    with pytest.raises(RuntimeError, match="no score"):
        search.fit(X, np.where(y, "good", "bad"))
    now = {name: value for name, value in vars(search).items() if name.endswith("_")}
    assert now.keys() == before.keys()
    assert all(now[name] is before[name] for name in now)
    search.set_params(refit=True)
    assert set(search.predict(X[:, :3])) == {0, 1}


def test_nothing_of_an_earlier_fit_is_left():
    pandas = pytest.importorskip("pandas")
    X, y = diabetes()
    search = ShineCV(Ridge(), cv=3).fit(pandas.DataFrame(X).add_prefix("x"), y)
    search.set_params(refit=False).fit(X, y)
    for name in ("best_estimator_", "refit_params_", "refit_time_", "feature_names_in_"):
        assert not hasattr(search, name)


def test_a_generalized_linear_model_keeps_its_last_fit_after_an_error():
    X, y = diabetes()
    y = y - y.min()
    model = GeneralizedLinear(TweedieLoss(1.0)).fit(X[:, :3], y)
    predicted = model.predict(X[:, :3])
    with pytest.raises(ValueError, match="y must lie between 0"):
        model.fit(X, -y)
    np.testing.assert_array_equal(model.predict(X[:, :3]), predicted)


# --- callbacks cannot mislead a search -----------------------------------------------------------


@pytest.mark.parametrize("penalty", ["shared", tuple(j % 3 for j in range(30))], ids=["1", "3"])
def test_a_callback_may_write_into_its_record(penalty):
    def spoil(record):
        for value in record.values():
            if isinstance(value, np.ndarray):
                value[...] = 7.0
        record.clear()

    X, y = breast_cancer()
    plain = ShineCV(LogisticRegression(), cv=3, penalty=penalty, tol=0.1)
    spoiled = clone(plain).set_params(callback=spoil)
    plain.fit(X, y)
    spoiled.fit(X, y)
    np.testing.assert_array_equal(spoiled.best_params_["C"], plain.best_params_["C"])
    criteria = [[record["criterion"] for record in s.history_] for s in (plain, spoiled)]
    assert criteria[0] == criteria[1]


def test_a_callback_cannot_write_into_the_solutions():
    def spoil(record, solutions):
        for array in (solutions[0].w, solutions[0].grad):
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 0.0
        with pytest.raises(TypeError, match="item assignment"):
            solutions[0] = None
        record["theta"][...] = 0.0

    problems = fold_problems(LogisticRegression(), *breast_cancer(), cv=3)
    plain, spoiled = hoag(problems), hoag(problems, callback=spoil)
    np.testing.assert_array_equal(spoiled.theta, plain.theta)


def test_a_scorer_may_write_into_the_model():
    def spoil(estimator, X, y):
        score = estimator.score(X, y)
        estimator.coef_[...] = 0.0
        return score

    X, y = breast_cancer()
    plain = ShineCV(LogisticRegression(), cv=3).fit(X, y)
    spoiled = ShineCV(LogisticRegression(), cv=3, scoring=spoil, refit="neg_criterion").fit(X, y)
    assert spoiled.best_params_ == plain.best_params_


def test_a_second_interrupt_drops_what_waits_for_threads():
    started = []

    def call(i):
        started.append(i)
        for _ in range(2 if i == 0 else 0):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)
        time.sleep(0.05)

    with (
        pytest.raises(KeyboardInterrupt),
        Deferred() as interrupts,
        Threads(2, 200, interrupts) as threads,
    ):
        threads.run(call, range(200))
    time.sleep(0.3)  # the calls that run come to their end
    n_started = len(started)
    time.sleep(0.3)
    assert len(started) == n_started < 200
