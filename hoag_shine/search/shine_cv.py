"""ShineCV: cross-validated tuning of a linear model's penalty by hypergradients."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, MetaEstimatorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import get_tags, metadata_routing
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from ..estimators.base import Model, check_tunable
from ..estimators.fit import warn_unless_converged
from ..estimators.registry import as_model
from ..hypergradients import Method, MethodName, resolve_method
from ..inner import InnerSolver, Solution, resolve_inner_solver
from ..linalg.dask_blocks import blocks_or_memory
from ..outer.hoag import SELECTIONS, HoagResult, check_search_options, hoag, interrupted
from ..outer.steps import Outcome
from ..problems.base import ProblemSet
from ..problems.groups import log_units
from ..utils.interrupts import Deferred, Interrupts, set_fitted
from ..utils.validation import (
    check_flag,
    check_number,
    check_option,
    check_positive,
    check_seed,
    in_memory,
    numpy_only,
    shown,
)
from ..utils.warn import one_warning, warn
from .callbacks import CallbackSupportMixin, Task, with_callbacks
from .folds import DesignGroup, FoldedData, problems_of
from .grids import explaining_grids
from .pipelines import PipelineParts
from .refit import Refit
from .report import Report
from .results import results_table, select, warn_of_missing_scores
from .routing import Routed, route, router, routing_enabled
from .scoring import CRITERION, Scores, Scoring
from .summary import summary

Vector = NDArray[np.float64]

# Length of the first step of a warm start, in log penalty.
# Why: more data hardly move the optimum, and the usual first step of 2 leads away from it.
WARM_STEP_LENGTH = 0.25


def _delegated(name: str) -> Any:
    """Return the method that calls the best estimator's of the same name, where it has one."""

    def has(search: ShineCV) -> bool:
        search._check_refitted()
        getattr(getattr(search, "best_estimator_", search.estimator), name)
        return True

    def method(self: ShineCV, X: Any) -> Any:
        best = self._best()
        with numpy_only():
            return getattr(best, name)(in_memory(X))

    method.__name__ = name
    method.__qualname__ = f"ShineCV.{name}"
    method.__doc__ = f"""Call ``{name}`` of the best estimator.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Or whatever the first step of a pipeline takes.

        Returns
        -------
        result : ndarray
        """
    return available_if(has)(method)


def _noted(whole: DesignGroup, model: Model) -> dict[str, Any]:
    """Return what the first step knows of the columns of X, and the classes of y."""
    seen = whole.seen if whole.transformers is None else whole.transformers.first or whole.seen
    names = ("n_features_in_", "feature_names_in_")
    noted = {name: getattr(seen, name) for name in names if hasattr(seen, name)}
    return noted | ({"classes_": model.classes_} if model.classifier else {})


def _scored(result: HoagResult, report: Report, interrupts: Interrupts) -> HoagResult:
    """Score the result again, which has been solved more accurately since it was scored.

    After an interrupt, the scores so far are kept.
    """
    try:
        report.score(result.history[result.best_index], result.solutions)
    except KeyboardInterrupt:
        if interrupts.forced:
            raise
        return interrupted(result)
    return interrupted(result) if interrupts.take() else result


class ShineCV(MetaEstimatorMixin, CallbackSupportMixin, BaseEstimator):
    r"""Tune the penalty of a linear model by hypergradients of its cross-validated loss.

    Finds the ``C`` of a :class:`~sklearn.linear_model.LogisticRegression` or
    :class:`~sklearn.svm.LinearSVC`, or the ``alpha`` of a :class:`~sklearn.linear_model.Ridge`,
    :class:`~sklearn.linear_model.RidgeClassifier`,
    :class:`~sklearn.linear_model.PoissonRegressor`,
    :class:`~sklearn.linear_model.GammaRegressor`,
    :class:`~sklearn.linear_model.TweedieRegressor`,
    :class:`~sklearn.linear_model.HuberRegressor` or :class:`GeneralizedLinear`, that minimises the
    mean over the folds of each fold's mean held-out loss: the loss that the estimator itself
    minimises, see :ref:`estimators`. A grid of candidates is not needed: the derivative of that
    criterion with respect to the logarithm of the penalty (the hypergradient) says where to go,
    and it costs little more than the fits themselves. All folds are fitted side by side, one pass
    over X serving them all.

    Parameters
    ----------
    estimator : estimator instance
        The estimator to tune, one of the above, a subclass that keeps its ``fit``, or a pipeline
        that ends in one; for targets that are to be transformed, a
        :class:`~sklearn.compose.TransformedTargetRegressor` around or in it. Its ``C`` or
        ``alpha`` is where the search starts; its ``fit_intercept`` and ``class_weight`` are
        respected; options of its own solver (``tol``, ``max_iter``, ...) are not used. The
        intercept is penalised only where the estimator itself does so. Transformers of a
        :class:`~sklearn.pipeline.Pipeline` are fitted once for each fold, to its training rows,
        and once to all rows for the final fit; its ``memory`` is used. Steps that resample, as
        those of imbalanced-learn, act on training rows alone. The transformed rows of all folds are
        held at the same time.
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
    inner_solver : str or callable, default="lbfgs"
        What solves the fits of a search, see :mod:`hoag_shine.inner`. Small problems are solved by
        factorised Hessians with ``hypergradient="auto"``, unless another solver is passed.
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
        Smallest and largest value of ``C`` or ``alpha``. Start and bounds of several penalties of
        columns are in proportion to the variances of these (for ``C``, to their inverses), and have
        the given values as geometric means: columns in other units have the same search.
    tol : float, default=2e-2
        What may be left to gain at the end is ``tol**2`` of the criterion, for one penalty and for
        many. A local search stops when the next step changes the logarithm of the penalty by at
        most ``tol``, or the criterion by at most ``tol**2`` of itself. The criterion is then known
        to half of that, and to 3e-6 of itself for up to 10,000 coefficients. The final fit ends
        when its gradient has fallen to that share of its norm at zero. Of least squares over tall
        dense data, whose passes are nearly free, a single penalty is searched to 1e-3 if ``tol`` is
        more.
    max_iter : int, default=1000
        Largest number of outer iterations.
    max_time : float, optional
        Seconds after which the search ends with the best so far; the final fit is still made.
    selection : {"min", "one-se"}, default="min"
        ``"min"`` takes the lowest criterion. ``"one-se"``, the one-standard-error rule, takes the
        strongest penalty whose criterion is within one standard error of the lowest, for a simpler
        model that cannot be told from the best: not the strongest of those visited, but where the
        criterion crosses that line. Several penalties are raised by a common factor.
    refit : bool, str or callable, default=True
        Whether to fit the estimator on all data at the best penalty. A string names a score of
        ``scoring``: of the penalties that the search has visited, the one that is best by it is
        taken. A function is given ``cv_results_`` and returns the row to take.
    refit_penalty : {"total", "per-sample"}, default="total"
        ``"total"`` keeps ``C`` or ``alpha`` as it is for the final fit, as scikit-learn does.
        ``"per-sample"`` keeps the weight of the penalty relative to that of a sample: K folds were
        fitted to (K - 1) / K of the rows, so that the fit to all rows has K / (K - 1) times the
        ``alpha``, or (K - 1) / K times the ``C``. ``best_params_`` is that of the folds,
        ``refit_params_`` that of the final fit.
    scoring : str, callable, list, tuple or dict, optional
        Scores to report beside the criterion, for each fold and outer iteration, as in
        :class:`~sklearn.model_selection.GridSearchCV`: one by its name or as a callable, or
        several. The search itself minimises the criterion, which must be smooth; scores only enter
        through ``refit``, and a warning says so where that is True. They are of the fits as they
        were in that iteration: accurate at ``best_index_``, elsewhere as accurate as the search
        needed them.
    return_train_score : bool, default=False
        Whether to report the scores of the training rows, too.
    error_score : "raise" or float, default=nan
        What to report where a scorer raises; with ``"raise"``, the error is not caught.
    n_jobs : int, optional
        Threads that share the passes over X, as joblib counts them: None is one, -1 stands for all
        cores. The result does not depend on it. It pays where X is so large that a pass takes some
        milliseconds.
    random_state : int, RandomState instance or None, default=None
        Where ``cv`` is None or a number, a value other than None shuffles the samples before
        they are split, and this is its seed. Nothing else here is random.
    verbose : int, default=0
        Print a line for each outer iteration when positive.
    callback : callable, optional
        Called once after each outer iteration with a copy of its record, as in ``history_``. A
        true answer ends the search with the best so far. Callbacks of scikit-learn 1.9 are set by
        ``set_callbacks`` and called for the task ``search``, its iterations, and
        ``refit-with-best-params``.
    warm_start : bool, default=False
        Whether to start where the last ``fit`` ended, for data that have grown: at its penalties,
        and where folds and columns are as many as then, from its coefficients.

    Attributes
    ----------
    best_params_ : dict
        The best parameter: ``{"C": ...}`` or ``{"alpha": ...}``, or by the pipeline's name of it,
        ``{"logisticregression__C": ...}``. With several penalties, an ndarray of shape
        (n_penalties,), in the order of ``penalty_names_``.
    C_ or alpha_ : float or ndarray of shape (n_penalties,)
        The value in ``best_params_``.
    coef_, intercept_ : ndarray
        Those of the linear model in ``best_estimator_``; ``coef_`` only where its columns are as
        many as those of X. Only with ``refit=True``.
    penalty_names_ : tuple
        The name of each penalty: the groups' labels, the features' names or indices, the targets'
        indices or the classes.
    best_score_ : float
        Mean over the folds of the negative held-out loss at ``best_params_``, equal to
        ``mean_test_score`` of ``GridSearchCV(scoring="neg_log_loss")`` (or
        ``"neg_mean_squared_error"``) where the loss is such a score. With one score as
        ``scoring``, or one that ``refit`` names, the mean of that. Not there if ``refit`` is a
        function.
    best_index_ : int
        The row of ``cv_results_``, and the outer iteration, that was taken.
    best_estimator_ : estimator
        The fitted estimator, of the user's class. Only with ``refit=True``. It predicts with
        coefficients fitted under ``best_params_``; where these are several penalties, which its
        class does not know, its own parameter stays as it was.
    refit_params_ : dict
        The parameter of the final fit: ``best_params_`` unless ``refit_penalty`` says otherwise.
    cv_results_ : dict of ndarray
        A row for each outer iteration in the layout of GridSearchCV. ``mean_test_score`` and its
        like are of the negative held-out loss; with ``scoring``, of that score, or by the names of
        several, and the negative held-out loss is ``mean_test_neg_criterion``. Test scores are as
        known in that iteration: accurate at ``best_index_``, and elsewhere only as accurate as the
        search needed them. ``rank_test_...`` of the loss goes by what the search knows of it, its
        error included.
    multimetric_ : bool
        Whether there are several scores.
    history_ : list of dict
        A record for each outer iteration, see :func:`hoag`, with ``params`` added.
    outcome_ : Outcome
        Why the search ended; ``Outcome.BOUND`` for an optimum on a bound.
    certificate_ : Certificate
        What can still be gained, where, and how much of the range was looked at.
    n_iter_ : int
        Number of outer iterations.
    n_splits_ : int
        Number of folds.
    scorer_ : callable or dict
        The scorer, or several by name.
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
        When the search ends at ``max_iter`` or ``max_time``, on a bound or by an interrupt, when
        more may be gained than ``tol`` allows, or a fit does not converge; the message says what to
        do.

    Notes
    -----
    Ctrl-C ends the search with the best so far, once the present data pass, scorer or callback has
    ended: a warning says so, ``outcome_`` is ``Outcome.INTERRUPTED``, and the final fit is made.
    Before the first outer iteration, during the final fit, or when pressed a second time, it raises
    ``KeyboardInterrupt``. After that, and after any error, the search is as it was before ``fit``:
    not fitted, or fitted as the last time.

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
    >>> round(search.best_params_["C"], 1)
    0.6
    >>> search.predict(X[:3])
    array([0, 0, 0])
    """

    # The search only passes metadata on: what counts are the requests of its parts.
    __metadata_request__fit = dict.fromkeys(("sample_weight", "groups"), metadata_routing.UNUSED)
    __metadata_request__score = dict.fromkeys(("sample_weight",), metadata_routing.UNUSED)

    @explaining_grids
    def __init__(
        self,
        estimator: Any,
        *,
        cv: Any = None,
        hypergradient: MethodName | Method = "auto",
        inner_solver: Literal["lbfgs"] | InnerSolver = "lbfgs",
        penalty: Literal["shared", "feature", "output"] | ArrayLike | Mapping[Any, Any] = "shared",
        shrinkage: float = 0.0,
        init: float | None = None,
        bounds: tuple[float, float] = (1e-8, 1e8),
        tol: float = 2e-2,
        max_iter: int = 1000,
        max_time: float | None = None,
        selection: Literal["min", "one-se"] = "min",
        refit: bool | str | Callable[[dict[str, Any]], int] = True,
        refit_penalty: Literal["total", "per-sample"] = "total",
        scoring: Any = None,
        return_train_score: bool = False,
        error_score: float | Literal["raise"] = np.nan,
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: int = 0,
        callback: Callable[[dict[str, Any]], Any] | None = None,
        warm_start: bool = False,
    ) -> None:
        self.estimator = estimator
        self.cv = cv
        self.hypergradient = hypergradient
        self.inner_solver = inner_solver
        self.penalty = penalty
        self.shrinkage = shrinkage
        self.init = init
        self.bounds = bounds
        self.tol = tol
        self.max_iter = max_iter
        self.max_time = max_time
        self.selection = selection
        self.refit = refit
        self.refit_penalty = refit_penalty
        self.scoring = scoring
        self.return_train_score = return_train_score
        self.error_score = error_score
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose
        self.callback = callback
        self.warm_start = warm_start

    @with_callbacks
    def fit(
        self, X: Any, y: Any = None, *, sample_weight: Any = None, groups: Any = None, **params: Any
    ) -> Self:
        """Search for the best penalty, then fit the estimator with it.

        Parameters
        ----------
        X : array-like, sparse matrix or RowBlocks of shape (n_samples, n_features)
            A memory-mapped array or CSR matrix of more than 128 MiB, a Dask array or data frame of
            that size, an array of h5py or zarr, or :class:`RowBlocks` stay where they are and are
            read in blocks, or by the workers of a cluster, see :doc:`/guide/out_of_core`.
            Otherwise:
            float32 is kept, anything else becomes float64. Sparse formats other than CSR are
            converted. Never copied for the folds. Copied once where presolve makes it smaller: if a
            tenth of at least 2,000 sparse columns are empty or multiples of others, as those with
            a single entry may be, and if a tenth of the samples repeat others. For a pipeline,
            whatever its first step takes.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Labels of two or more classes, or real targets; several only for Ridge.
        sample_weight : array-like of shape (n_samples,), optional
            Non-negative weights, of the training losses and of the held-out losses alike. Scorers
            that take weights get them, too.
        groups : array-like of shape (n_samples,), optional
            Handed to the splitter.
        **params : dict of str -> object
            Fit parameters of the transformers of a pipeline, each name prefixed by that of the step
            and two underscores. With metadata routing enabled: whatever the estimator, the splitter
            or the scorers have requested, by the names of the requests.

        Returns
        -------
        self : ShineCV

        Raises
        ------
        ValueError, TypeError
            For bad input; the message names the argument.
        """
        X, y, sample_weight, groups = (
            blocks_or_memory(X),
            *map(in_memory, (y, sample_weight, groups)),
        )
        as_model(PipelineParts(self.estimator).model)  # before anything else asks what it can do
        scoring = self._scoring()
        self._check_options(scoring)
        routed = route(self, scoring.scorer, sample_weight, groups, params)
        with numpy_only(), Task.fit(self, 1 + bool(self.refit), X, y, sample_weight) as task:
            with one_warning(ConvergenceWarning):
                data = FoldedData(
                    self.estimator,
                    X,
                    y,
                    cv=self.cv,
                    sample_weight=routed.weight,
                    split_params=routed.split,
                    transform_params=routed.transform,
                    random_state=self.random_state,
                    n_jobs=self.n_jobs,
                    before_reading=scoring.by_blocks,
                )
                fitted = self._fit(data, scoring, routed, task)
            # All at once, so that an error or an interrupt leaves the last fit as it was.
            set_fitted(self, fitted)
        return self

    def _warn_unless_chosen_by_score(self, model: Model) -> None:
        """Warn that the penalty is chosen by the loss, and not by ``scoring``."""
        asked_for = self.refit is not True or self.selection != "min"
        if asked_for or self.scoring is None or self.scoring == model.loss.scoring:
            return
        named = f"scoring={shown(self.scoring)}"
        by_score = repr(self.scoring) if isinstance(self.scoring, str) else "'score'"
        warn(
            f"The penalty is chosen by the held-out loss, and {named} is only reported: "
            f"refit={by_score} takes the best penalty visited by that score, and "
            f"refit={CRITERION!r} is the loss without this warning."
        )

    def _fit(
        self, data: FoldedData, scoring: Scoring, routed: Routed, task: Task
    ) -> dict[str, Any]:
        """Return the fitted attributes."""
        whole = data.whole() if self.refit else data.designs[0]
        shared = whole is data.designs[0]
        *groups, whole_groups = data.groups(self.penalty, [*data.designs, whole])
        designs = [p.with_groups(g, reduce=True) for p, g in zip(data.designs, groups, strict=True)]
        data = data.with_designs(designs)
        whole = designs[0] if shared else whole.with_groups(whole_groups, reduce=True)
        problems = problems_of(designs)
        units = log_units(groups[0], data.designs[0].X)
        theta, bounds = self._start(data.model, units)
        # Not by way of logarithms, which may leave the bounds by a rounding error.
        limits = np.multiply.outer(self._check_bounds(), data.model.value(units))
        last = self._last(theta, bounds, problems, data)
        known = {
            "penalty_names_": whole_groups.names,
            "scorer_": scoring.scorers(),
            "multimetric_": scoring.multimetric,
            "n_splits_": len(data.splits),
            **_noted(whole, data.model),
        }
        refit = None
        if self.refit:
            refit = Refit(data, whole, self.tol, shared=shared, n_jobs=self.n_jobs)
        with Deferred() as interrupts:
            with task.subtask("search", None) as search_task:
                scores = Scores(scoring, data, routed.score)
                ended = None if refit is None else self._as_if_ended(refit, known)
                report = Report(self, data, scores, search_task, limits, ended)
                result = hoag(
                    problems,
                    **last,
                    hypergradient=self.hypergradient,
                    inner_solver=self.inner_solver,
                    bounds=bounds,
                    tol=self.tol,
                    max_iter=self.max_iter,
                    max_time=self.max_time,
                    selection=self.selection,
                    shrinkage=self.shrinkage,
                    n_jobs=self.n_jobs,
                    callback=report,
                )
            del problems  # their linear predictors would stay in memory during the final fit
            found = known | self._results(result, report, interrupts)
        if refit is not None:
            with task.subtask("refit-with-best-params"):
                found |= self._fit_best(refit, report, result, found)
        return found

    def _scoring(self) -> Scoring:
        return Scoring(
            self.estimator,
            self.scoring,
            return_train_score=self.return_train_score,
            error_score=self.error_score,
        )

    def _check_options(self, scoring: Scoring) -> None:
        check_search_options(self.tol, self.shrinkage, self.max_iter, self.n_jobs, self.callback)
        resolve_method(self.hypergradient)
        resolve_inner_solver(self.inner_solver)
        if self.max_time is not None:
            check_positive("max_time", self.max_time, finite=False)
        check_option("selection", self.selection, SELECTIONS)
        check_option("refit_penalty", self.refit_penalty, ("total", "per-sample"))
        check_flag("return_train_score", self.return_train_score)
        check_flag("warm_start", self.warm_start)
        check_seed("random_state", self.random_state)
        if not isinstance(self.verbose, bool) and not check_number("verbose", self.verbose) >= 0:
            raise ValueError(f"verbose must be at least 0, got {shown(self.verbose)}.")
        self._check_bounds()
        self._check_refit(scoring)

    def _check_refit(self, scoring: Scoring) -> None:
        known = (*scoring.names, CRITERION)
        if isinstance(self.refit, str):
            if self._row_wanted not in known and not scoring.open:
                raise ValueError(f"refit must name one of the scores {known}, got {self.refit!r}.")
        elif not isinstance(self.refit, bool | np.bool_) and not callable(self.refit):
            raise TypeError(
                f"refit must be a bool, the name of a score or a function, got {shown(self.refit)}."
            )

    @property
    def _row_wanted(self) -> Any:
        """``refit``, or ``"score"`` where it is the name of the only score."""
        named = isinstance(self.scoring, str) and self.refit == self.scoring
        return "score" if named else self.refit

    def _check_bounds(self) -> tuple[float, float]:
        """Return the bounds, after checking them and ``init``."""
        try:
            low, high = self.bounds
        except (TypeError, ValueError):
            raise ValueError(
                f"bounds must be a pair of positive values, got {shown(self.bounds)}."
            ) from None
        low, high = check_tunable("bounds[0]", low), check_tunable("bounds[1]", high)
        if low >= high:
            raise ValueError(f"bounds must be increasing, got {self.bounds!r}.")
        if self.init is not None and not low <= check_tunable("init", self.init) <= high:
            raise ValueError(f"init={self.init!r} lies outside of bounds={self.bounds!r}.")
        return low, high

    def _start(self, model: Model, units: Vector) -> tuple[Vector, tuple[Vector, Vector]]:
        """Return log alphas to start from, and their bounds, each in its unit."""
        low, high = self._check_bounds()
        start = model.theta(model.start if self.init is None else float(self.init))
        if np.size(start) != units.size:  # one value for all, or one for each of other penalties
            start = np.mean(start)
        lower, upper = sorted((model.theta(low), model.theta(high)))
        return np.clip(start, lower, upper) + units, (lower + units, upper + units)

    def _last(
        self, theta: Vector, bounds: tuple[Vector, Vector], problems: ProblemSet, data: FoldedData
    ) -> dict[str, Any]:
        """Return where :func:`hoag` starts: at theta, or where the last fit ended."""
        n, designs = problems.n_hyperparameters, data.design_of_fold
        last, ws = getattr(self, "_ended_at", (np.empty(0), []))
        if not self.warm_start or last.size != n:
            return {"theta": theta}
        sizes = [
            (design.X.shape[1] + design.model.fit_intercept) * design.model.n_outputs
            for design in designs
        ]
        start = None
        if [w.size for w in ws] == sizes:
            start = [design.inner.restrict(w) for design, w in zip(designs, ws, strict=True)]
        return {
            "theta": np.clip(last, *bounds),
            "start": start,
            "first_step": WARM_STEP_LENGTH,
        }

    def _results(
        self, result: HoagResult, report: Report, interrupts: Interrupts
    ) -> dict[str, Any]:
        """Return the fitted attributes that describe the search."""
        for record in result.history:
            record["params"] = report.params(record)
        report.scores.fill(len(result.history))
        result = _scored(result, report, interrupts)
        table = results_table(result, report.scores, lowest=self.selection == "min")
        multimetric = self._several_scores(table)
        if not multimetric:
            self._warn_unless_chosen_by_score(report.data.model)
        warn_of_missing_scores(self._row_wanted, table, report.scores.scoring.lost)
        best = select(self._row_wanted, table, result)
        (value,) = result.history[best]["params"].values()
        found = {
            "history_": result.history,
            "cv_results_": table,
            "multimetric_": multimetric,
            "best_index_": best,
            "best_params_": result.history[best]["params"],
            f"{report.data.model.parameter}_": value,
            "outcome_": result.outcome,
            "certificate_": result.certificate,
            "n_iter_": len(result.history),
            "_ended_at": (result.theta, self._variables(result, report.data)),
        }
        if not callable(self.refit):
            found["best_score_"] = float(table[f"mean_test_{self._metric(table)}"][best])
        if interrupts.take():
            found["outcome_"] = interrupted(result).outcome
        return found

    def _variables(self, result: HoagResult, data: FoldedData) -> list[Vector]:
        """Return the folds' solutions, for all columns, for a warm start of another fit."""
        if not self.warm_start:
            return []
        folds = zip(data.design_of_fold, result.solutions, strict=True)
        return [design.inner.expand(s.w) for design, s in folds]

    def _several_scores(self, table: dict[str, Any]) -> bool:
        """Whether there are several scores, by the names that ``scoring`` has returned."""
        prefix = "mean_test_"
        names = [key.removeprefix(prefix) for key in table if key.startswith(prefix)]
        if isinstance(self.refit, str) and self._row_wanted not in names:
            raise ValueError(f"refit must name one of the scores {names}, got {self.refit!r}.")
        return self.scoring is not None and "score" not in names

    def _metric(self, table: dict[str, Any]) -> str:
        """Return which score ``best_score_`` is."""
        if isinstance(self._row_wanted, str):
            return self._row_wanted
        return "score" if "mean_test_score" in table else CRITERION

    def _fit_best(
        self, refit: Refit, report: Report, result: HoagResult, found: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the fitted attributes that describe the final fit."""
        begin = time.perf_counter()
        theta, params = result.history[found["best_index_"]]["theta"], found["best_params_"]
        if self.refit_penalty == "per-sample":
            theta = theta + refit.per_sample_shift()
            params = report.parameter(theta)
        solution = refit.fit(theta, result.solutions)
        advice = "scale the features or raise the smallest penalty in bounds"
        warn_unless_converged(solution, "The final fit", advice)
        (value,) = params.values()
        return {
            "refit_params_": params,
            "best_estimator_": refit.estimator(value, solution, by_output=report.by_output),
            "refit_time_": time.perf_counter() - begin,
        }

    def _as_if_ended(
        self, refit: Refit, known: dict[str, Any]
    ) -> Callable[[dict[str, Any], Sequence[Solution]], dict[str, Any]]:
        """Return a function that makes the attributes of a search that ends at a record."""

        def attributes(record: dict[str, Any], solutions: Sequence[Solution]) -> dict[str, Any]:
            (value,) = record["params"].values()
            shift = refit.per_sample_shift() if self.refit_penalty == "per-sample" else 0.0
            solution = refit.fit(record["theta"] + shift, solutions)
            by_output = isinstance(self.penalty, str) and self.penalty == "output"
            return known | {
                "best_index_": record["iteration"],
                "best_params_": record["params"],
                "best_estimator_": refit.estimator(value, solution, by_output=by_output),
            }

        return attributes

    predict = _delegated("predict")
    predict_proba = _delegated("predict_proba")
    predict_log_proba = _delegated("predict_log_proba")
    decision_function = _delegated("decision_function")

    def summary(self) -> str:
        """Say in a few lines what the search has found, how certain that is, and what it cost.

        Returns
        -------
        text : str
            The penalty at the start and the one that was chosen, as a range if there are many; the
            held-out loss at both, with the standard error of the mean over the folds; why the
            search ended; what can still be gained, by ``certificate_``; iterations, passes over the
            data and seconds, those of the final fit included. It also stands below the diagram that
            a notebook shows.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the search is not fitted.

        Examples
        --------
        >>> from sklearn.datasets import load_diabetes
        >>> from sklearn.linear_model import Ridge
        >>> from hoag_shine import ShineCV
        >>> search = ShineCV(Ridge()).fit(*load_diabetes(return_X_y=True))
        >>> print(search.summary())
        estimator                    Ridge
        alpha                        1 -> ...
        held-out mean squared error  34... -> 29..., standard error ... (5 folds)
        outcome                      converged
        still to gain                at most ... %, for alpha from ... to ... (certain)
        cost                         ... iterations, ... passes over the data, ... s
        """
        check_is_fitted(self, "best_index_")
        return summary(self)

    @property
    def coef_(self) -> NDArray[Any]:
        """Coefficients of the best estimator, where its columns are those of X."""
        coef = self._linear_model("coef_").coef_
        if coef.shape[-1] != self.n_features_in_:
            raise AttributeError(
                f"coef_ would be of the {coef.shape[-1]} columns that the pipeline makes of the "
                f"{self.n_features_in_} of X: look at the last step of best_estimator_."
            )
        return np.asarray(coef)

    @property
    def intercept_(self) -> Any:
        """Intercept of the best estimator."""
        return self._linear_model("intercept_").intercept_

    def _linear_model(self, name: str) -> Any:
        """Return the fitted linear model, or raise AttributeError without one."""
        if not hasattr(self, "best_estimator_"):
            raise AttributeError(f"This ShineCV has no {name}: it needs fit, with refit=True.")
        return PipelineParts(self.best_estimator_).model

    def score(self, X: Any, y: Any = None, sample_weight: Any = None, **params: Any) -> float:
        """Score the best estimator by ``scoring``, or by its own ``score`` without one.

        Of several scores, the one that ``refit`` names.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
        sample_weight : array-like of shape (n_samples,), optional
        **params : dict of str -> object
            With metadata routing enabled, whatever else the scorer has requested.

        Returns
        -------
        score : float

        Raises
        ------
        ValueError
            If there are several scores and ``refit`` names none of them.
        """
        best = self._best()
        X, y, sample_weight = map(in_memory, (X, y, sample_weight))
        if sample_weight is not None:
            params["sample_weight"] = sample_weight
        if routing_enabled():
            params = metadata_routing.process_routing(self, "score", **params).scorer.score
        if not self.multimetric_:
            return float(self.scorer_(best, X, y, **params))
        scorers = self.scorer_
        if not isinstance(self.refit, str) or self.refit == CRITERION:
            raise ValueError(
                "score needs one of the scores that scoring has: let refit name it, or call one "
                "of scorer_."
            )
        if isinstance(scorers, dict):
            return float(scorers[self.refit](best, X, y, **params))
        return float(scorers(best, X, y, **params)[self.refit])

    def get_metadata_routing(self) -> metadata_routing.MetadataRouter:
        """Return which object gets which metadata.

        Returns
        -------
        routing : MetadataRouter
        """
        return router(self, self._scoring().scorer)

    def _best(self) -> Any:
        check_is_fitted(self, "best_index_")
        self._check_refitted()
        return self.best_estimator_

    def _check_refitted(self) -> None:
        if not self.refit:
            raise AttributeError(
                "This ShineCV was made with refit=False and has no fitted estimator: fit one with "
                "best_params_, or use refit=True."
            )

    # Formats without code, such as that of skops, cannot store an enumeration: its name is stored.

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if isinstance(state.get("outcome_"), Outcome):
            state["outcome_"] = state["outcome_"].name
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if isinstance(state.get("outcome_"), str):
            state = state | {"outcome_": Outcome[state["outcome_"]]}
        super().__setstate__(state)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        inner = get_tags(self.estimator)
        tags.estimator_type = inner.estimator_type
        tags.classifier_tags = inner.classifier_tags
        tags.regressor_tags = inner.regressor_tags
        tags.target_tags = inner.target_tags
        tags.input_tags = inner.input_tags
        return tags

    def _html_repr(self) -> str:
        """Return the diagram of scikit-learn, and below it the summary, once there is one."""
        diagram = str(super()._html_repr())
        if not hasattr(self, "best_index_"):
            return diagram
        return f"{diagram}<pre>{escape(self.summary())}</pre>"

    def _sk_visual_block_(self) -> Any:
        """Return what the HTML representation shows inside: the best estimator, once there is."""
        from sklearn.utils._repr_html.estimator import _VisualBlock

        key = "best_estimator_" if hasattr(self, "best_estimator_") else "estimator"
        estimator = getattr(self, key)
        name = f"{key}: {type(estimator).__name__}"
        return _VisualBlock("parallel", [estimator], names=[name], name_details=[str(estimator)])
