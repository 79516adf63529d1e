"""Run scikit-learn's installed tests with a search in the place of each linear model, twice.

In every test module that is named, ``LogisticRegression`` and its like are replaced: first by a
``GridSearchCV`` of one point, then by a ``ShineCV`` that is held at the same point. Tests that pass
with the grid and fail with ShineCV are what a user who swaps the searches would run into. They are
listed, and each must be one of ``DIFFERENCES``, which says why::

    python tests/peers/differential.py                 # all of MODULES, some minutes
    python tests/peers/differential.py sklearn.tests.test_multiclass

Not collected by pytest: it needs nothing but what is installed, but it takes minutes.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

# What such a test may run into, and why that is meant.
DIFFERENCES = {
    "test_multiclass_multioutput_estimator_predict_proba": (
        "seven digits of probabilities as scikit-learn's solver leaves them at its default "
        "tolerance; here fits are solved more accurately"
    ),
    "test_cross_val_predict_decision_function_shape": (
        "a RidgeClassifier can be fitted to a single class, but nothing can be tuned by one: an "
        "error at fit, where scikit-learn's comes at prediction"
    ),
}

MODULES = (
    "sklearn.tests.test_multiclass",
    "sklearn.tests.test_multioutput",
    "sklearn.tests.test_calibration",
    "sklearn.ensemble.tests.test_voting",
    "sklearn.ensemble.tests.test_stacking",
    "sklearn.ensemble.tests.test_bagging",
    "sklearn.feature_selection.tests.test_rfe",
    "sklearn.feature_selection.tests.test_from_model",
    "sklearn.feature_selection.tests.test_sequential",
    "sklearn.semi_supervised.tests.test_self_training",
    "sklearn.model_selection.tests.test_validation",
    "sklearn.model_selection.tests.test_classification_threshold",
    "sklearn.inspection.tests.test_permutation_importance",
    "sklearn.inspection.tests.test_partial_dependence",
)
MODE, REPORT = "HOAG_SHINE_PEER", "HOAG_SHINE_PEER_REPORT"


# --- the plugin, in a process of pytest ----------------------------------------------------------


def searched(cls, mode):
    """Return what makes a search of one point of an estimator, as the class makes the estimator."""
    from sklearn.model_selection import GridSearchCV

    from hoag_shine import ShineCV

    parameter = "C" if "C" in cls().get_params() else "alpha"

    def make(*arguments, **options):
        estimator = cls(*arguments, **options)
        value = getattr(estimator, parameter)
        if mode == "grid":
            return GridSearchCV(estimator, {parameter: [value]}, cv=2, error_score="raise")
        held = {"bounds": (value, value * 1.000001), "init": value} if value else {}
        return ShineCV(estimator, cv=2, tol=1e-5, max_iter=1, **held)

    return make


def pytest_collection_modifyitems(items):
    """Replace the linear models in the modules of the tests."""
    from hoag_shine.estimators.registry import MODELS

    for module in {item.module for item in items}:
        for name, value in list(vars(module).items()):
            if isinstance(value, type) and value in MODELS:
                setattr(module, name, searched(value, os.environ[MODE]))


def pytest_runtest_logreport(report):
    """Note what has become of a test."""
    if report.when == "call" or report.failed:
        text = str(report.longrepr).strip().splitlines()
        line = {"test": report.nodeid, "outcome": report.outcome, "why": text[-1] if text else ""}
        with Path(os.environ[REPORT]).open("a") as file:
            file.write(json.dumps(line) + "\n")


# --- the script ----------------------------------------------------------------------------------


def run(module, mode):
    """Return the outcome of each test of a module, and the last line of its error."""
    spec = find_spec(module)
    if spec is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report"
        report.touch()
        here = str(Path(__file__).parent)
        path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
        environment = os.environ | {MODE: mode, REPORT: str(report), "PYTHONPATH": path}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "differential", "-W", "ignore"]
        command += ["-c", os.devnull, "--rootdir", folder, "-p", "no:cacheprovider", spec.origin]
        subprocess.run(command, env=environment, capture_output=True, check=False)
        lines = map(json.loads, report.read_text().splitlines())
        return {line["test"].split("/")[-1]: (line["outcome"], line["why"]) for line in lines}


def reason(test):
    """Return why a test may fail with ShineCV only, or None."""
    return next((why for name, why in DIFFERENCES.items() if re.search(name, test)), None)


def main(modules):
    """Print what differs; return the number of differences that nobody has meant."""
    total = unmeant = 0
    for module in modules:
        grid, shine = (run(module, mode) for mode in ("grid", "shine"))
        total += len(shine)
        passed = sum(outcome == "passed" for outcome, _ in grid.values())
        failed = [
            test
            for test, (outcome, _) in shine.items()
            if outcome == "failed" and grid.get(test, ("failed",))[0] == "passed"
        ]
        print(
            f"{module}: {passed} of {len(grid)} tests pass with a grid, "
            f"{len(failed)} of them not with ShineCV",
            flush=True,
        )
        for test in failed:
            unmeant += reason(test) is None
            print(f"  {test}\n    {reason(test) or 'NOT MEANT'}\n    {shine[test][1][:200]}")
    print(f"{total} tests, {unmeant} differences that are not meant")
    return unmeant


if __name__ == "__main__":
    sys.exit(bool(main(sys.argv[1:] or MODULES)))
