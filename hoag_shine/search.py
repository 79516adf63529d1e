"""ShineCV: cross-validated tuning of a linear model's penalty by hypergradients."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.base import BaseEstimator, MetaEstimatorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import check_scoring
from sklearn.utils import _safe_indexing, get_tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from . import folds
from .estimators import Model, check_positive
from .folds import FoldedData, Part
from .groups import Groups
from .inner.lbfgs import Solution, minimize_lbfgs
from .outer import HoagResult, hoag

Vector = NDArray[np.float64]

# The final fit's gradient norm, relative to that at zero.
REFIT_TOLERANCE = 1e-6


def _estimator_has(name: str) -> Callable[[Any], bool]:
    """Return the check that the tuned estimator, fitted or not yet, has a method."""

    def check(self: ShineCV) -> bool:
        getattr(getattr(self, "best_estimator_", self.estimator), name)
        return True

    return check


class ShineCV(MetaEstimatorMixin, BaseEstimator):
    r"""Tune the penalty of a linear model by hypergradients of its cross-validated loss.

    Finds the ``C`` of a :class:`~sklearn.linear_model.LogisticRegression`, or the ``alpha`` of a
    :class:`~sklearn.linear_model.Ridge` or :class:`GeneralizedLinear`, that minimises the mean over
    the folds of each fold's mean held-out loss: the log loss of two or more classes, the squared
    error, or the loss of your own. A grid of candidates is not needed: the derivative of that
    criterion with respect to the logarithm of the penalty (the hypergradient) says where to go,
    and it costs little more than the fits themselves. All folds are fitted side by side, one pass
    over X serving them all.

    Parameters
    ----------
    estimator : LogisticRegression, Ridge, GeneralizedLinear, or a Pipeline that ends in one
        The estimator to tune. Its ``C`` or ``alpha`` is where the search starts; its
        ``fit_intercept`` and ``class_weight`` are respected; options of its own solver (``tol``,
        ``max_iter``, ...) are not used. The intercept is never penalised. Transformers of a
        :class:`~sklearn.pipeline.Pipeline` are fitted once for each fold, to its training rows,
        and once to all rows for the final fit; its ``memory`` is used. The transformed rows of
        all folds are held at the same time.
    cv : int, cross-validation generator or iterable, default=None
        As in :class:`~sklearn.model_selection.GridSearchCV`: None for five folds, the number of
        folds (stratified for a classifier), a splitter, or an iterable of (train, test) indices.
        A :class:`~sklearn.model_selection.PredefinedSplit` makes a single hold-out.
    hypergradient : str or callable, default="auto"
        How the hypergradient is computed. ``"auto"`` takes the estimate that the fits themselves
        leave behind, measures its error and improves it where that could change the outcome;
        ``"shine"`` takes it as it is, at no cost; ``"cg"`` solves the linear system by conjugate
        gradient (HOAG); ``"exact"`` factorises the Hessian, for small problems;
        ``"jacobian-free"`` is a baseline. See :mod:`hoag_shine.hypergradients` for all.
    penalty : str, array-like of shape (n_features,), or dict, default="shared"
        ``"shared"``: one penalty for all coefficients. ``"feature"``: one for each feature.
        ``"output"``: one for each target of Ridge, which takes those as ``alpha``, or for each
        class of more than two. Or one for each group of features: a label for every column of X,
        or ``{name: columns}`` with indices, slices, masks or feature names; the
        ``output_indices_`` of a fitted :class:`~sklearn.compose.ColumnTransformer` are of this
        form. Columns labelled -1 or None are not penalised. Behind transformers, the columns are
        those that they make, with the names of their ``get_feature_names_out``; where these differ
        from fold to fold, as do vocabularies, one shared penalty remains.
    shrinkage : float, default=0.0
        Keeps several penalties from fitting the noise of the held-out data, by pulling their
        logarithms towards each other; see :func:`hoag`. ``1 / n_samples`` is a good first guess
        for many penalties, 0 for a few.
    init : float, optional
        Where to start, instead of the estimator's own ``C`` or ``alpha``.
    bounds : pair of float, default=(1e-8, 1e8)
        Smallest and largest value of ``C`` or ``alpha``.
    tol : float, default=1e-3
        Stop when the next step changes the logarithm of the penalty by at most ``tol``, or the
        criterion by at most ``tol**2`` of itself.
    max_iter : int, default=50
        Largest number of outer iterations.
    refit : bool, default=True
        Whether to fit the estimator on all data at the best penalty (``C`` or ``alpha`` is kept
        as it is, as scikit-learn does).
    scoring : str or callable, optional
        A score to report beside the criterion, for each fold and outer iteration. It does not
        take part in the search, whose criterion must be smooth; but :meth:`score` uses it.
    n_jobs : int, optional
        Threads for the fits of different folds. The result does not depend on it.
    random_state : int, RandomState instance or None, default=None
        Where ``cv`` is None or a number, a value other than None shuffles the samples before
        they are split, and this is its seed. Nothing else here is random.
    verbose : int, default=0
        Print a line for each outer iteration when positive.
    callback : callable, optional
        Called after each outer iteration with its record, a dict as in ``history_``. A true
        answer ends the search with the best so far.

    Attributes
    ----------
    best_params_ : dict
        The best parameter: ``{"C": ...}`` or ``{"alpha": ...}``, or by the pipeline's name of it,
        ``{"logisticregression__C": ...}``. With several penalties, an ndarray of shape
        (n_penalties,), in the order of ``penalty_names_``.
    penalty_names_ : tuple
        The name of each penalty: the groups' labels, the features' names or indices, the targets'
        indices or the classes.
    best_score_ : float
        Mean over the folds of the negative held-out loss at ``best_params_``, equal to
        ``mean_test_score`` of ``GridSearchCV(scoring="neg_log_loss")`` (or
        ``"neg_mean_squared_error"``) where the loss is such a score.
    best_index_ : int
        The outer iteration that found it.
    best_estimator_ : estimator
        The fitted estimator, of the user's class. Only with ``refit=True``. It predicts with
        coefficients fitted under ``best_params_``; where these are several penalties, which its
        class does not know, its own parameter stays as it was.
    cv_results_ : dict of ndarray
        A row for each outer iteration in the layout of GridSearchCV. Test scores are as known in
        that iteration: accurate at ``best_index_``, and elsewhere only as accurate as the search
        needed them. With ``scoring``, its columns are added under its name.
    history_ : list of dict
        A record for each outer iteration, see :func:`hoag`, with ``params`` added.
    outcome_ : Outcome
        Why the search ended; ``Outcome.BOUND`` for an optimum on a bound.
    n_iter_ : int
        Number of outer iterations.
    n_splits_ : int
        Number of folds.
    scorer_ : callable
        What :meth:`score` uses.
    refit_time_ : float
        Seconds for the final fit. Only with ``refit=True``.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only if X has feature names that are strings.
    classes_ : ndarray of shape (n_classes,)
        Only for classifiers.

    Warns
    -----
    ConvergenceWarning
        When the search ends at ``max_iter``, on a bound or by an interrupt, or a fit does not
        converge; the message says what to do.

    References
    ----------
    .. [1] F. Pedregosa, "Hyperparameter optimization with approximate gradient", ICML 2016.
    .. [2] Z. Ramzi et al., "SHINE: SHaring the INverse Estimate from the forward pass for bi-level
       optimization and implicit models", ICLR 2022.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.preprocessing import StandardScaler
    >>> from hoag_shine import ShineCV
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> X = StandardScaler().fit_transform(X)
    >>> search = ShineCV(LogisticRegression(), cv=5).fit(X, y)
    >>> round(search.best_params_["C"], 2)
    0.63
    >>> search.predict(X[:3])
    array([0, 0, 0])
    """

    def __init__(
        self,
        estimator: Any,
        *,
        cv: Any = None,
        hypergradient: Any = "auto",
        penalty: Any = "shared",
        shrinkage: float = 0.0,
        init: float | None = None,
        bounds: tuple[float, float] = (1e-8, 1e8),
        tol: float = 1e-3,
        max_iter: int = 50,
        refit: bool = True,
        scoring: Any = None,
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: int = 0,
        callback: Callable[[dict[str, Any]], Any] | None = None,
    ) -> None:
        self.estimator = estimator
        self.cv = cv
        self.hypergradient = hypergradient
        self.penalty = penalty
        self.shrinkage = shrinkage
        self.init = init
        self.bounds = bounds
        self.tol = tol
        self.max_iter = max_iter
        self.refit = refit
        self.scoring = scoring
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose
        self.callback = callback

    def fit(
        self, X: Any, y: Any, *, sample_weight: Any = None, groups: Any = None, **params: Any
    ) -> Self:
        """Search for the best penalty, then fit the estimator with it.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            float32 is kept, anything else becomes float64. Sparse formats other than CSR are
            converted. Never copied for the folds. For a pipeline, whatever its first step takes.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Labels of two or more classes, or real targets; several only for Ridge.
        sample_weight : array-like of shape (n_samples,), optional
            Non-negative weights, of the training losses and of the held-out losses alike.
        groups : array-like of shape (n_samples,), optional
            Handed to the splitter.
        **params : dict of str -> object
            What the transformers of a pipeline are to be fitted with, each name prefixed by that
            of the step and two underscores.

        Returns
        -------
        self : ShineCV

        Raises
        ------
        ValueError, TypeError
            For bad input; the message names the argument.
        """
        data = FoldedData(
            self.estimator,
            X,
            y,
            cv=self.cv,
            sample_weight=sample_weight,
            split_params={"groups": groups},
            transform_params=params,
            random_state=self.random_state,
            n_jobs=self.n_jobs,
        )
        model = data.model
        scorer = None if self.scoring is None else check_scoring(self.estimator, self.scoring)
        theta, bounds = self._start(model)
        whole = data.whole() if self.refit else data.parts[0]
        *groups_, whole_groups = data.groups(self.penalty, [*data.parts, whole])
        self.penalty_names_ = whole_groups.names
        self._note_features(whole)
        problems = folds.problems_of(model, data.parts, groups_)
        report = _Report(self, data, scorer)
        result = hoag(
            problems,
            np.full(problems.n_hyperparameters, theta),
            hypergradient=self.hypergradient,
            bounds=bounds,
            tol=self.tol,
            max_iter=self.max_iter,
            shrinkage=self.shrinkage,
            n_jobs=self.n_jobs,
            callback=report,
        )
        self._store(data, result, report)
        self.scorer_ = scorer or check_scoring(self.estimator)
        if self.refit:
            self._fit_best(data, whole, whole_groups, result)
        return self

    def _note_features(self, part: Part) -> None:
        """Say what the first step has seen of the columns of X."""
        seen = part.seen if part.transformers is None else part.transformers
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(self, name):
                delattr(self, name)
            if hasattr(seen, name):
                setattr(self, name, getattr(seen, name))

    def _start(self, model: Model) -> tuple[float, tuple[float, float]]:
        """Return log alpha to start from, and its bounds."""
        try:
            low, high = self.bounds
        except (TypeError, ValueError):
            raise ValueError(
                f"bounds must be a pair of {model.parameter} values, got {self.bounds!r}."
            ) from None
        low, high = check_positive("bounds[0]", low), check_positive("bounds[1]", high)
        if low >= high:
            raise ValueError(f"bounds must be increasing, got {self.bounds!r}.")
        start = model.start if self.init is None else check_positive("init", self.init)
        if self.init is not None and not low <= start <= high:
            raise ValueError(f"init={self.init!r} lies outside of bounds={self.bounds!r}.")
        lower, upper = sorted((model.theta(low), model.theta(high)))
        return float(np.clip(model.theta(start), lower, upper)), (lower, upper)

    def _store(self, data: FoldedData, result: HoagResult, report: _Report) -> None:
        for record in result.history:
            record["params"] = report.params(record)
        self.history_ = result.history
        self.best_index_ = result.best_index
        self.best_params_ = result.history[result.best_index]["params"]
        self.outcome_ = result.outcome
        self.n_iter_ = len(result.history)
        self.n_splits_ = len(data.splits)
        if data.model.classifier:
            self.classes_ = data.model.classes_
        self.cv_results_ = _cv_results(result, report.scores)
        self.best_score_ = float(self.cv_results_["mean_test_score"][self.best_index_])

    def _fit_best(self, data: FoldedData, whole: Part, groups: Groups, result: HoagResult) -> None:
        """Fit on all rows, from the mean of the folds' solutions if they have as many columns."""
        begin = time.perf_counter()
        problem = folds.whole_problem(data.model, whole, groups)[0]
        zero = np.zeros(problem.n_params)
        scale = float(np.linalg.norm(problem.value_and_grad(zero, result.theta)[1]))
        alike = all(s.w.size == zero.size for s in result.solutions)
        w = np.mean([s.w for s in result.solutions], axis=0) if alike else zero
        solution = minimize_lbfgs(problem, result.theta, w, tol=REFIT_TOLERANCE * scale)
        if not solution.converged:
            warnings.warn(
                f"The final fit did not converge, because {solution.status.value}: scale the "
                "features or raise the smallest penalty in bounds.",
                ConvergenceWarning,
                stacklevel=3,
            )
        (value,) = self.best_params_.values()
        fitted = _fitted(self, data, whole, value, solution)
        self.best_estimator_ = data.chain.assemble(whole.transformers, fitted)
        self.refit_time_ = time.perf_counter() - begin

    @available_if(_estimator_has("predict"))
    def predict(self, X: Any) -> Any:
        """Call ``predict`` of the best estimator."""
        return self._best().predict(X)

    @available_if(_estimator_has("predict_proba"))
    def predict_proba(self, X: Any) -> Any:
        """Call ``predict_proba`` of the best estimator."""
        return self._best().predict_proba(X)

    @available_if(_estimator_has("predict_log_proba"))
    def predict_log_proba(self, X: Any) -> Any:
        """Call ``predict_log_proba`` of the best estimator."""
        return self._best().predict_log_proba(X)

    @available_if(_estimator_has("decision_function"))
    def decision_function(self, X: Any) -> Any:
        """Call ``decision_function`` of the best estimator."""
        return self._best().decision_function(X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Score the best estimator by ``scoring``, or by its own ``score`` without one.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
        sample_weight : array-like of shape (n_samples,), optional

        Returns
        -------
        score : float
        """
        weights = {} if sample_weight is None else {"sample_weight": sample_weight}
        return float(self.scorer_(self._best(), X, y, **weights))

    def _best(self) -> Any:
        check_is_fitted(self, "best_index_")
        if not self.refit:
            raise AttributeError(
                "This ShineCV was made with refit=False and has no fitted estimator: fit one with "
                "best_params_, or use refit=True."
            )
        return self.best_estimator_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        inner = get_tags(self.estimator)
        tags.estimator_type = inner.estimator_type
        tags.classifier_tags = inner.classifier_tags
        tags.regressor_tags = inner.regressor_tags
        tags.input_tags.sparse = inner.input_tags.sparse
        return tags


def _fitted(search: ShineCV, data: FoldedData, part: Part, value: Any, solution: Solution) -> Any:
    """Return the linear model with the coefficients of a solution."""
    by_output = _is(search.penalty, "output")
    model = data.model.fitted(value, solution.w, solution.n_iter, part.X.dtype, by_output=by_output)
    for name in ("n_features_in_", "feature_names_in_"):
        if hasattr(part.seen, name):
            setattr(model, name, getattr(part.seen, name))
    return model


class _Report:
    """What happens after every sample: scores, a line of text, the user's callback."""

    def __init__(self, search: ShineCV, data: FoldedData, scorer: Any) -> None:
        self.search = search
        self.data = data
        self.scorer = scorer
        self.scores: list[list[float]] = []

    def __call__(self, record: dict[str, Any], solutions: list[Solution]) -> bool:
        record["params"] = self.params(record)
        if self.scorer is not None:
            del self.scores[record["iteration"] :]
            self.scores.append(self._score(record, solutions))
        if self.search.verbose > 0:
            print(_line(record, self.data.model), flush=True)  # noqa: T201
        return bool(self.search.callback is not None and self.search.callback(record))

    def params(self, record: dict[str, Any]) -> dict[str, Any]:
        # Going through the logarithm may leave the bounds by a rounding.
        values = np.clip(self.data.model.value(record["theta"]), *self.search.bounds)
        shared = _is(self.search.penalty, "shared")
        name = self.data.chain.prefix + self.data.model.parameter
        return {name: float(values[0]) if shared else values}

    def _score(self, record: dict[str, Any], solutions: list[Solution]) -> list[float]:
        (value,) = record["params"].values()
        fold_parts = [part for part in self.data.parts for _ in part.splits]
        scores = []
        for (_, test), part, solution in zip(self.data.splits, fold_parts, solutions, strict=True):
            model = _fitted(self.search, self.data, part, value, solution)
            estimator = self.data.chain.assemble(part.transformers, model)
            X, y = _safe_indexing(self.data.X, test), _safe_indexing(self.data.y, test)
            scores.append(float(self.scorer(estimator, X, y)))
        return scores


def _is(penalty: Any, word: str) -> bool:
    return isinstance(penalty, str) and penalty == word


def _line(record: dict[str, Any], model: Model) -> str:
    ((name, value),) = record["params"].items()
    values = np.atleast_1d(value)
    spread = f"{values.min():.4g}" + (f" to {values.max():.4g}" if values.size > 1 else "")
    return (
        f"[ShineCV] iteration {record['iteration']}: {name}={spread}, "
        f"{model.loss.scoring or 'score'}={-record['criterion']:.6g} (+- {record['error']:.1g}), "
        f"{record['data_passes']:g} data passes, {record['seconds']:.2f} s"
    )


def _cv_results(result: HoagResult, scores: list[list[float]]) -> dict[str, NDArray[Any]]:
    """Return the history in the layout of GridSearchCV."""
    history = result.history
    params = [record["params"] for record in history]
    (name,) = params[0]
    seconds = np.array([record["seconds"] for record in history])
    n_splits = len(history[0]["fold_criteria"])
    table: dict[str, Any] = {
        "mean_fit_time": seconds / n_splits,
        "std_fit_time": np.zeros_like(seconds),
        "mean_score_time": np.zeros_like(seconds),
        "std_score_time": np.zeros_like(seconds),
        f"param_{name}": _param_column([p[name] for p in params]),
        "params": params,
    }
    table |= _score_columns("score", -np.array([r["fold_criteria"] for r in history]))
    # Ranked by what the search trusts: the criterion, with the inner error against it.
    pessimistic = np.array([record["criterion"] + record["error"] for record in history])
    pessimistic[result.best_index] = -np.inf
    table["rank_test_score"] = rankdata(pessimistic, method="min").astype(np.int32)
    if scores:
        table |= _score_columns("scoring", np.array(scores))
    return table


def _param_column(values: list[Any]) -> Any:
    """Return a parameter's column as GridSearchCV has it: of objects, unless of numbers."""
    if np.ndim(values[0]) == 0:
        return np.ma.masked_array(values)
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return np.ma.masked_array(column)


def _score_columns(name: str, scores: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Return per-split, mean and standard deviation columns of scores (n_rows, n_splits)."""
    columns = {f"split{k}_test_{name}": scores[:, k] for k in range(scores.shape[1])}
    return columns | {
        f"mean_test_{name}": scores.mean(axis=1),
        f"std_test_{name}": scores.std(axis=1),
    }
