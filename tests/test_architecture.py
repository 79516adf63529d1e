"""The examples of the architecture page, and that imports go where its drawing says."""

import ast
import runpy
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import scale

from hoag_shine import L2, GeneralizedLinear, Outcome, ShineCV

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "docs" / "architecture"
needs_docs = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the documentation is not here")
# From the bottom up; what stands in one line does not know of each other.
FLOORS = [
    ["utils"],
    ["linalg"],
    ["problems"],
    ["inner"],
    ["hypergradients"],
    ["outer", "testing", "estimators", "datasets"],
    ["search"],
    ["persistence", "plotting"],
    ["cli"],
]


def run(name):
    source = EXAMPLES / f"{name}.py"
    assert len(source.read_text().splitlines()) <= 40
    return runpy.run_path(str(source))


@needs_docs
@pytest.mark.parametrize("name", ["cauchy", "smooth_absolute"])
def test_a_loss_or_penalty_by_value_is_tuned_as_well_as_by_a_grid(name):
    namespace = run(name)
    search = namespace["search"]
    assert search.outcome_ is Outcome.CONVERGED
    X, y = load_diabetes(return_X_y=True)
    estimator = search.best_estimator_
    around = search.best_params_["alpha"] * np.array([0.5, 0.9, 1.1, 2.0])
    values = []
    for alpha in around:
        fixed = ShineCV(estimator, init=alpha, max_iter=1, refit=False)
        with pytest.warns(ConvergenceWarning):
            values.append(-fixed.fit(scale(X), scale(y)).best_score_)
    # A search leaves tol**2 of the criterion.
    assert -search.best_score_ <= min(values) * (1.0 + search.tol**2)


@needs_docs
@pytest.mark.parametrize("name", ["newton_cg", "neumann"])
def test_a_solver_or_method_by_value_ends_where_the_librarys_do(name):
    search = run(name)["search"]
    X, y = load_breast_cancer(return_X_y=True)
    usual = ShineCV(LogisticRegression()).fit(scale(X), y)
    assert search.outcome_ is Outcome.CONVERGED
    assert search.best_params_["C"] == pytest.approx(usual.best_params_["C"], rel=0.1)
    # Neither is held to more than what tol leaves, which is tol**2 of the criterion.
    grid = GridSearchCV(
        LogisticRegression(tol=1e-8, max_iter=10_000),
        {"C": [search.best_params_["C"], usual.best_params_["C"]]},
        scoring="neg_log_loss",
        cv=5,
    ).fit(scale(X), y)
    own, best = -grid.cv_results_["mean_test_score"]
    assert own <= best * (1.0 + 4e-4)


def imports(path):
    """Return the rooms that a module imports from, wherever in it."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            for name in names:
                parts = (*base, *name.split("."))
                if len(parts) > 1:
                    yield parts[1]


@pytest.mark.skipif(not (ROOT / "hoag_shine").is_dir(), reason="the sources are not here")
def test_nothing_imports_upwards():
    floor = {name: i for i, names in enumerate(FLOORS) for name in names}
    upwards = []
    for path in (ROOT / "hoag_shine").rglob("*.py"):
        own = path.relative_to(ROOT / "hoag_shine").parts[0].removesuffix(".py")
        if own in floor:
            upwards += [
                f"{path.name} imports {other}"
                for other in imports(path)
                if other in floor and other != own and floor[other] >= floor[own]
            ]
    assert not upwards


def test_a_loss_and_a_penalty_combine():
    X, y = load_diabetes(return_X_y=True)
    plain = ShineCV(GeneralizedLinear(), hypergradient="cg").fit(scale(X), scale(y))
    same = ShineCV(GeneralizedLinear(penalty=L2()), hypergradient="cg")
    np.testing.assert_array_equal(
        same.fit(scale(X), scale(y)).best_estimator_.coef_, plain.best_estimator_.coef_
    )
