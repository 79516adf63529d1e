"""From what a user passes to ``fit`` to the inner problems of the folds: validation and weights.

Folds that share one design matrix are one :class:`DesignGroup`, in which a fold is just weights of
the rows. Without transformers there is one group for all folds. Transformers are fitted to the
training rows of each fold, so that with them each fold has a design matrix, and a group, of its
own.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import groupby
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import check_cv
from sklearn.utils import _safe_indexing, indexable
from sklearn.utils.validation import check_consistent_length

from ..estimators.base import Model
from ..estimators.fit import linear_problems
from ..estimators.registry import as_model
from ..linalg.allocator import check_room_for_classes
from ..linalg.clusters import ClusterMatrix
from ..linalg.dask_blocks import DaskBlocks, blocks_or_memory, current_client
from ..linalg.row_blocks import RowBlocks, as_row_blocks
from ..linalg.streams import PartedMatrix, StreamedMatrix
from ..problems.base import JoinedProblems, ProblemSet
from ..problems.fold_weights import FoldWeights
from ..problems.groups import Groups, coefficient_groups
from ..problems.held_out import HeldOut
from ..problems.linear import LinearProblems
from ..problems.presolve.chain import Presolved
from ..utils.interrupts import Deferred, Threads
from ..utils.validation import (
    check_indices,
    check_n_jobs,
    check_seed,
    check_weight,
    flat,
    in_memory,
    naming,
    shown,
    validated,
)
from ..utils.warn import warn
from .pipelines import Fitted, PipelineParts
from .row_wise import check_row_wise, transformed

Vector = NDArray[np.float64]
Array = NDArray[np.float64]
Rows = NDArray[np.integer[Any]]


class Splits(Sequence[tuple[Rows, Rows]]):
    """The (train, test) rows of folds.

    Where the training rows are all but the held-out ones, they are made when they are needed: with
    thousands of folds, they would take more memory than the data.

    Parameters
    ----------
    splits : iterable of (train, test)
        Arrays of indices.
    n_rows : int
    """

    def __init__(self, splits: Iterable[tuple[Rows, Rows]], n_rows: int) -> None:
        self._n_rows = n_rows
        self._all = np.arange(n_rows, dtype=_index_type(n_rows))
        self._splits = [
            (None if self._is_rest(train, test) else train, test) for train, test in splits
        ]

    @overload
    def __getitem__(self, k: int) -> tuple[Rows, Rows]: ...
    @overload
    def __getitem__(self, k: slice) -> Sequence[tuple[Rows, Rows]]: ...
    def __getitem__(self, k: int | slice) -> Any:
        if isinstance(k, slice):
            return [self[i] for i in range(len(self))[k]]
        train, test = self._splits[k]
        return (self._rest(test) if train is None else train), test

    def __len__(self) -> int:
        return len(self._splits)

    def times_drawn(self, k: int) -> Vector:
        """Return how often each row is among the training rows of a fold."""
        train, test = self._splits[k]
        if train is not None:
            return np.bincount(train, minlength=self._n_rows).astype(np.float64)
        times = np.ones(self._n_rows)
        times[test] = 0.0
        return times

    @property
    def tests(self) -> list[Rows]:
        """The held-out rows of each fold."""
        return [test for _, test in self._splits]

    def _rest(self, test: Rows) -> Rows:
        kept = np.ones(self._n_rows, dtype=bool)
        kept[test] = False
        return self._all[kept]

    def _is_rest(self, train: Rows, test: Rows) -> bool:
        if train.size + test.size != self._n_rows:
            return False
        return np.array_equal(train, self._rest(test))


@dataclass(frozen=True)
class DesignGroup:
    """Rows with one design matrix, and the folds among them.

    Attributes
    ----------
    X : ndarray, CSR matrix or StreamedMatrix of shape (n_rows, n_columns)
        Validated, float32 or float64.
    y : ndarray of shape (n_rows,) or (n_rows, n_targets), float64
        Targets, or codes of the classes.
    weight : ndarray of shape (n_rows,), float64
    splits : list of (train, test)
        For each fold its rows in this group.
    seen : estimator
        A clone that has stored the number of columns, and their names if X was a data frame.
    model : Model
        That of the search, or where folds lack classes, one without these.
    transformers : Fitted or None
        That have made X and y.
    presolved : Presolved or None
        What the inner problems have in place of X, once the groups of its columns are known.
    """

    X: Any
    y: Vector
    weight: Vector
    splits: Splits
    seen: Any
    model: Model
    transformers: Fitted | None = None
    presolved: Presolved | None = None

    def with_groups(self, groups: Groups, *, reduce: bool) -> DesignGroup:
        """Return the group with what the inner problems have in place of X.

        Parameters
        ----------
        groups : Groups
            Of the columns of X.
        reduce : bool
            Whether to presolve, or to leave X as it is.
        """
        given = Presolved(self.X, groups, self.model.n_outputs)
        return replace(self, presolved=given.reduced() if reduce else given)

    @property
    def inner(self) -> Presolved:
        """What the inner problems have in place of X."""
        assert self.presolved is not None, "with_groups comes first"
        return self.presolved

    @cached_property
    def names(self) -> Any:
        """Names of the columns, or None."""
        names = getattr(self.seen, "feature_names_in_", None)
        if names is None and self.transformers is not None:
            names = self.transformers.get_feature_names_out()
        return names

    def by_classes(self) -> list[DesignGroup]:
        """Split the group into runs of folds that lack the same classes, each without these."""
        if not self.model.classifier:
            return [self]
        lacking = [tuple(self.model.lacking(self.y[t], self.weight[t])) for t, _ in self.splits]
        if not any(lacking):
            return [self]
        runs = [list(run) for _, run in groupby(range(len(lacking)), key=lacking.__getitem__)]
        return [self._of_folds(run, lacking[run[0]]) for run in runs]

    def complete(self) -> DesignGroup:
        """Return the group for a fit to all of its rows, without the classes that they lack."""
        lacking = self.model.lacking(self.y, self.weight)
        return self._without(lacking.tolist(), self.splits) if lacking.size else self

    def _of_folds(self, folds: Sequence[int], lacking: Sequence[int]) -> DesignGroup:
        splits = Splits([self.splits[k] for k in folds], len(self.y))
        return self._without(lacking, splits) if lacking else replace(self, splits=splits)

    def _without(self, lacking: Sequence[int], splits: Splits) -> DesignGroup:
        model, y, known = self.model.without(lacking, self.y)
        return replace(self, splits=splits, model=model, y=y, weight=self.weight * known)


class RowsElsewhere:
    """Stands for an X that is not in memory where splitters and checks look at X.

    Parameters
    ----------
    source : RowBlocks

    Attributes
    ----------
    shape : tuple of int
    """

    def __init__(self, source: RowBlocks) -> None:
        self.shape = source.shape
        if self.shape[0] < 2 or self.shape[1] < 1:
            raise ValueError(
                f"X must have at least two rows and a column, but its shape is {tuple(self.shape)}."
            )

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Any:
        raise TypeError(
            "X is read in blocks of rows, so that none can be picked: use a splitter that looks at "
            "y or groups alone, or pass cv as a list of (train, test) indices."
        )


class FoldedData:
    """The data of a search: checked, split and transformed.

    Parameters
    ----------
    estimator : estimator instance
        A linear model that can be tuned, or a pipeline that ends in one.
    X, y, sample_weight
        As passed to ``fit``.
    cv, random_state, n_jobs
        As in :class:`ShineCV`.
    split_params : mapping, optional
        Arguments of the splitter, such as ``groups``.
    transform_params : mapping, optional
        Fit parameters of the transformers, by the pipeline's names; arrays with a value for each
        row are split like X.
    before_reading : callable, optional
        Called with the model before an X that is not in memory is read, which takes long.

    Attributes
    ----------
    chain : PipelineParts
    model : Model
    X, y : as passed, but indexable
        X is a :class:`RowsElsewhere` if it is not in memory.
    codes : ndarray of float64
        y as numbers.
    weight : ndarray of shape (n_samples,), float64
    splits : list of (train, test)
    designs : list of DesignGroup
    """

    def __init__(
        self,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        cv: Any = None,
        sample_weight: Any = None,
        split_params: Mapping[str, Any] | None = None,
        transform_params: Mapping[str, Any] | None = None,
        random_state: Any = None,
        n_jobs: int | None = None,
        before_reading: Callable[[Model], None] = lambda _: None,
    ) -> None:
        if y is None:
            raise ValueError(
                "This search requires y to be passed, but the target y is None: give the labels "
                "or targets to learn."
            )
        check_n_jobs(n_jobs)
        check_seed("random_state", random_state)
        source = as_row_blocks(X)
        if source is not None:
            X = RowsElsewhere(source)
        check_indices(X)  # before anything is read from it
        self.chain = PipelineParts(estimator)
        self.model = as_model(self.chain.model)
        self._transform_params = dict(transform_params or {})
        # Transformers that all folds share, since they have learnt nothing of the rows.
        self._common = Fitted(self.chain)
        if source is not None and self.chain.transforms:
            check_row_wise(self.chain)
            if self._transform_params:
                raise ValueError(
                    f"fit parameters {shown(list(self._transform_params))} are for transformers "
                    "that learn, and X is read in blocks, whose transformers do not."
                )
        elsewhere = self.chain.transforms or source is not None
        self._shared = None if elsewhere else self._validated(X)
        if self.model.classifier or not self.model.multi_output:
            y = flat(y)
        targets = validated(
            BaseEstimator(),
            y=y,
            y_numeric=not self.model.classifier,
            multi_output=self.model.multi_output,
        )
        with naming("y"):
            check_consistent_length(X, targets)
        self.X, self.y = indexable(X, y)
        if self.chain.target is not None:
            targets = self._finite_targets(self.chain.fitted_target(targets).regressor_.y_)
        self.codes = self.model.encode(targets)
        self.weight = check_weight(sample_weight, targets)
        if sample_weight is not None and self.chain.resamples:
            raise ValueError(
                "sample_weight belongs to the rows of X, and a step of the pipeline makes others "
                "of them: leave one of both out."
            )
        known = source if self._shared is None else self._shared[0]
        n_features = 0 if known is None else known.shape[1]
        if self.model.classifier:
            check_room_for_classes(self.model.n_outputs, len(self.codes), n_features)
        if not self.weight.any():
            raise ValueError("sample_weight must not be zero for all rows.")
        self._check_all_classes()
        self.splits = self._split(cv, random_state, split_params or {})
        if source is not None:  # last, for it takes long
            before_reading(self.model)
            if self.chain.transforms:
                source, self._common = transformed(self.chain, source)
            self._shared = self._read(source)
        if self._differ:
            designs = self._all_transformed(n_jobs)
        else:
            designs = [self._of_all_rows(self.splits)]
        self.designs = [one for design in designs for one in design.by_classes()]

    @property
    def _differ(self) -> bool:
        """Whether transformers are fitted to the training rows of each fold."""
        return self.chain.target is not None or (self.chain.transforms and self._shared is None)

    def with_designs(self, designs: list[DesignGroup]) -> FoldedData:
        """Return the same data with others as its designs."""
        twin = copy(self)
        twin.designs = designs
        return twin

    @property
    def design_of_fold(self) -> list[DesignGroup]:
        """For each fold the group that it belongs to."""
        return [design for design in self.designs for _ in range(len(design.splits))]

    @property
    def local_splits(self) -> Sequence[tuple[Rows, Rows]]:
        """For each fold its (train, test) rows within its group."""
        if len(self.designs) == 1:
            return self.designs[0].splits
        return [split for design in self.designs for split in design.splits]

    def rows_of(self, params: Mapping[str, Any], rows: Rows) -> dict[str, Any]:
        """Return metadata of some rows; what does not have a value for each row stays whole."""
        return {
            name: _safe_indexing(value, rows) if _by_row(value, len(self.codes)) else value
            for name, value in params.items()
        }

    def whole(self) -> DesignGroup:
        """Return all rows, for the final fit: none is held out."""
        if self._differ:
            return self._transformed(np.arange(len(self.codes))).complete()
        first = self.designs[0]
        if len(self.designs) == 1 and first.model is self.model:
            return first
        return self._of_all_rows(self.splits).complete()

    def groups(self, penalty: Any, designs: Sequence[DesignGroup]) -> list[Groups]:
        """Return the penalty groups of the columns of each design group, named alike in all."""
        if not isinstance(penalty, str) or penalty not in ("shared", "output"):
            _check_same_columns(designs)
        outputs = self.model.output_names
        if (
            isinstance(penalty, str)
            and penalty == "output"
            and any(p.model is not self.model for p in designs)
        ):
            raise ValueError(
                "penalty='output' needs every class among the training rows of every fold: use "
                "penalty='shared', or folds without rare classes."
            )
        return [coefficient_groups(penalty, p.X.shape[1], p.names, outputs) for p in designs]

    def _validated(self, X: Any) -> tuple[Any, Any]:
        """Return X as the linear model gets it, and a clone of the model that has seen it."""
        seen = clone(self.chain.model)
        matrix = validated(
            seen, X, accept_sparse="csr", dtype=[np.float64, np.float32], ensure_min_samples=2
        )
        return matrix, seen

    def _read(self, source: RowBlocks) -> tuple[Any, Any]:
        """Return what :meth:`_validated` does, for an X that is not in memory, after a pass."""
        seen = clone(self.chain.model)
        options = {"accept_sparse": "csr", "dtype": [np.float64, np.float32]}
        check: Callable[[Any], Any] = partial(validated, seen, ensure_min_samples=0, **options)
        client = current_client() if isinstance(source, DaskBlocks) else None
        if isinstance(source, DaskBlocks) and client is not None:
            matrix: PartedMatrix = ClusterMatrix(source, client, check)
            check(sparse.csr_array((1, matrix.shape[1])))  # the blocks were not seen here
        else:
            matrix = StreamedMatrix(source, check)
        names = getattr(source, "feature_names", None)
        if names is not None:
            seen.feature_names_in_ = np.array(names, dtype=object)
        return matrix, seen

    def _check_all_classes(self) -> None:
        """Raise where all rows together lack a class that the fit needs."""
        lacking = self.model.lacking(self.codes, self.weight)
        if not lacking.size:
            return
        labels = self.model.classes_.tolist()
        weightless = self.model.weightless()
        if set(lacking) - set(weightless):
            raise ValueError(
                "sample_weight must not be zero for all rows of class "
                f"{labels[lacking[0]]!r}: leave these rows out."
            )
        if len(labels) - lacking.size < 2:
            raise ValueError(
                "estimator.class_weight must be positive for at least two classes, got "
                f"{shown(self.model.estimator.class_weight)}: with one, there is nothing to tell "
                "apart."
            )

    def _of_all_rows(self, splits: Splits) -> DesignGroup:
        """Return all rows as they are."""
        assert self._shared is not None
        matrix, seen = self._shared
        made_by = self._common if self.chain.prefix else None
        return DesignGroup(matrix, self.codes, self.weight, splits, seen, self.model, made_by)

    def _transformed(self, train: Rows, test: Rows | None = None) -> DesignGroup:
        """Return a fold's rows, transformed as its training rows say: training rows come first."""
        if self._shared is not None:
            return self._with_own_targets(train, test)
        X, y, transformers = self.chain.fit(
            _safe_indexing(self.X, train),
            _safe_indexing(self.y, train),
            self.rows_of(self._transform_params, train),
        )
        matrix, seen = self._validated(X)
        codes, weight = self.codes[train], self.weight[train]
        if self.chain.resamples or self.chain.target is not None:
            codes = self.model.recode(self._finite_targets(y))
        if self.chain.resamples:
            weight = np.ones(len(codes))
        if test is None:
            nothing = Splits([], len(codes))
            return DesignGroup(matrix, codes, weight, nothing, seen, self.model, transformers)
        held_out = validated(
            seen,
            transformers.transform(_safe_indexing(self.X, test)),
            reset=False,
            accept_sparse="csr",
            dtype=[np.float64, np.float32],
        )
        own = self.codes[test]
        if self.chain.target is not None:
            targets = transformers.targets(_safe_indexing(self.y, test))
            own = self.model.recode(self._finite_targets(targets))
        as_csr = partial(sparse.vstack, format="csr")  # older releases of SciPy forget it
        stack: Any = as_csr if sparse.issparse(matrix) else np.concatenate
        n_rows = len(codes) + test.size
        places = np.arange(len(codes)), np.arange(len(codes), n_rows)
        return DesignGroup(
            stack([matrix, held_out]),
            np.concatenate([codes, own]),
            np.concatenate([weight, self.weight[test]]),
            Splits([places], n_rows),
            seen,
            self.model,
            transformers,
        )

    def _with_own_targets(self, train: Rows, test: Rows | None) -> DesignGroup:
        """Return all rows with targets that are transformed as the training rows say."""
        assert self._shared is not None
        matrix, seen = self._shared
        transformers = self._common.with_target(_safe_indexing(self.y, train))
        codes = self.model.recode(self._finite_targets(transformers.targets(self.y)))
        splits = Splits([] if test is None else [(train, test)], len(codes))
        return DesignGroup(matrix, codes, self.weight, splits, seen, self.model, transformers)

    def _finite_targets(self, y: Any) -> Any:
        """Return targets that a step or a transformer has made, checked like those of the user."""
        with naming("y"):
            return validated(
                BaseEstimator(),
                y=y,
                y_numeric=not self.model.classifier,
                multi_output=self.model.multi_output,
            )

    def _splitter(self, cv: Any, random_state: Any) -> Any:
        """Return what makes the folds."""
        if cv is None or isinstance(cv, numbers.Integral):
            n_folds, n_samples = 5 if cv is None else int(cv), len(self.codes)
            if isinstance(cv, bool) or not 2 <= n_folds <= n_samples:
                raise ValueError(
                    f"cv must be a number of folds from 2 to {n_samples}, the number of samples; "
                    f"got {shown(n_folds)}."
                )
            kind = type(check_cv(n_folds, self.codes, classifier=self.model.classifier))
            shuffled = {} if random_state is None else {"shuffle": True}
            return kind(n_folds, random_state=random_state, **shuffled)
        if hasattr(cv, "split") and not isinstance(cv, str | bytes):
            return cv
        if not isinstance(cv, Iterable) or isinstance(cv, str | bytes | Mapping):
            raise ValueError(
                "cv must be None, a number of folds, a splitter or an iterable of (train, test) "
                f"pairs, got {shown(cv)}."
            )
        return check_cv([_pair(fold) for fold in cv])

    def _all_transformed(self, n_jobs: int | None) -> list[DesignGroup]:
        """Return a group for each fold."""
        with (
            Deferred() as interrupts,
            Threads(n_jobs, len(self.splits), interrupts, independent=True) as threads,
        ):
            return threads.map(self._transformed, *zip(*self.splits, strict=True))

    def _split(self, cv: Any, random_state: Any, params: Mapping[str, Any]) -> Splits:
        """Return the (train, test) rows of every fold, after checking that each can be used."""
        n_samples = len(self.codes)
        splitter = self._splitter(cv, random_state)
        every = np.arange(n_samples, dtype=_index_type(n_samples))
        splits = Splits(
            (
                (_rows(train, every), _rows(test, every))
                for train, test in map(_pair, splitter.split(self.X, self.y, **params))
            ),
            n_samples,
        )
        if not splits:
            raise ValueError("cv has no folds: at least one (train, test) split is needed.")
        return self._usable(splits)

    def _usable(self, splits: Splits) -> Splits:
        """Return the folds that can be used, and warn of what is left out of the others."""
        lacks = [lack for k, fold in enumerate(splits) if (lack := self._lack(k, *fold))]
        left_out = {lack.fold for lack in lacks if lack.undecided}
        if len(left_out) == len(splits):
            first = self.model.classes_.tolist()[lacks[0].classes[0]]
            raise ValueError(
                _unusable(
                    0, f"its training rows have no sample of class {first!r}, nor has any fold"
                )
            )
        if lacks:
            _tell_lacks(lacks, self.model.classes_.tolist())
        if not left_out:
            return splits
        kept = (fold for k, fold in enumerate(splits) if k not in left_out)
        return Splits(kept, len(self.codes))

    def _lack(self, k: int, train: Rows, test: Rows) -> Lack | None:
        """Return what a fold lacks, or None, after checking that it has rows."""
        weight = self.weight[train]
        if not weight.any():
            raise ValueError(_unusable(k, "its training rows have no weight"))
        if not self.weight[test].any():
            raise ValueError(_unusable(k, "its held-out rows are empty or have no weight"))
        if not self.model.classifier:
            return None
        classes = self.model.lacking(self.codes[train], weight)
        if not classes.size:
            return None
        lost = np.isin(self.codes[test], classes)
        single = classes.size == self.model.classes_.size - 1
        undecided = single or not self.weight[test][~lost].any()
        return Lack(k, classes, int(lost.sum()), bool(undecided))


@dataclass(frozen=True)
class Lack:
    """The classes that the training rows of a fold lack.

    Attributes
    ----------
    fold : int
    classes : ndarray of int
        Those that the training rows lack.
    n_rows : int
        Held-out rows of these classes.
    undecided : bool
        Whether nothing is left by which penalties could be compared.
    """

    fold: int
    classes: Rows
    n_rows: int
    undecided: bool


def _tell_lacks(lacks: Sequence[Lack], labels: Sequence[Any]) -> None:
    """Warn of folds that lack classes, and say what is left out."""
    classes = sorted({int(c) for lack in lacks for c in lack.classes})
    folds = [lack.fold for lack in lacks]
    message = (
        f"The training rows of {_listed('fold', folds)} of cv have no row with a weight of "
        f"{_listed('class', [labels[c] for c in classes])}, whose held-out rows then have an "
        f"infinite loss at every penalty: {sum(lack.n_rows for lack in lacks)} of them are left "
        "out of the criterion."
    )
    undecided = [lack.fold for lack in lacks if lack.undecided]
    if undecided:
        message += (
            f" With nothing else to judge by, {_listed('fold', undecided)} is left out whole."
        )
    warn(message)


def _unusable(k: int, problem: str) -> str:
    return (
        f"Fold {k} of cv cannot be used, because {problem}: use fewer folds, stratified ones, or "
        "other weights."
    )


def _listed(noun: str, values: Sequence[Any]) -> str:
    """Return a few values as a sentence has them."""
    more = f" and {len(values) - 5} more" if len(values) > 5 else ""
    return f"{noun} {', '.join(map(repr, values[:5]))}{more}"


def _pair(fold: Any) -> tuple[Any, Any]:
    """Return the two parts of a fold."""
    try:
        train, test = fold
    except (TypeError, ValueError):
        raise ValueError(
            f"cv must give a pair (train, test) of indices for each fold, got {shown(fold)}."
        ) from None
    return train, test


def _by_row(value: Any, n_samples: int) -> bool:
    """Whether a fit parameter has a value for each row, as scikit-learn decides it."""
    if isinstance(value, str | bytes | Mapping):
        return False
    shape = getattr(value, "shape", None)
    size = shape[0] if shape else len(value) if hasattr(value, "__len__") else None
    return bool(size == n_samples)


def _check_same_columns(parts: Sequence[DesignGroup]) -> None:
    """Raise unless the columns are the same in every fold, so that each can have a penalty."""
    sizes = [part.X.shape[1] for part in parts]
    names = [part.names for part in parts]
    known = all(name is not None for name in names)
    if len(set(sizes)) > 1 or (known and len({tuple(name) for name in names}) > 1):
        raise ValueError(
            "penalty tells columns apart, but the transformers of the pipeline make other columns "
            f"of each fold's rows ({min(sizes)} to {max(sizes)}): use penalty='shared', or "
            "transformers whose columns are the same for all rows, such as a vectorizer with a "
            "given vocabulary or an encoder with given categories."
        )


def _rows(part: Any, every: Rows) -> Rows:
    """Return the rows of one part of a fold, which may be indices or a mask, given all rows."""
    part = np.asarray(part)
    try:
        rows = every[part if part.size else part.astype(np.intp)]
    except IndexError as error:
        raise ValueError(
            "cv must give the rows of a fold as indices or masks that fit the "
            f"{every.size} samples, got {part!r}: {error}."
        ) from error
    return np.asarray(rows)


def _index_type(n_rows: int) -> Any:
    """Return the type of row indices: 32 bits where they are enough, for half the memory."""
    return np.promote_types(np.int32, np.min_scalar_type(-n_rows))


def problems_of(designs: Sequence[DesignGroup]) -> ProblemSet:
    """Return the inner problems of all folds."""
    sets = [_design_problems(design) for design in designs]
    return sets[0] if len(sets) == 1 else JoinedProblems(sets)


def training_weights(design: DesignGroup) -> FoldWeights:
    """Return the weights of the rows in the training losses of the folds."""

    def of_fold(k: int) -> Array:
        # A row that was drawn several times, as by a bootstrap, counts several times.
        drawn = design.splits.times_drawn(k)
        return design.model.training_weight(design.y, drawn, design.weight)

    return FoldWeights(len(design.splits), of_fold)


def held_out_rows(design: DesignGroup) -> HeldOut:
    """Return the rows that the folds hold out, with their weights in the outer losses."""
    tests, n = design.splits.tests, len(design.y)
    of_test = np.repeat(np.arange(len(tests)), [test.size for test in tests])
    # A pair of fold and row as one number; a row may be drawn several times.
    places, drawn = np.unique(of_test * n + np.concatenate(tests), return_counts=True)
    folds, rows = np.divmod(places, n)
    total = drawn * design.weight[rows]
    folds, rows, total = (a[total > 0.0] for a in (folds, rows, total))
    mass = np.bincount(folds, total)[folds] * design.model.n_averaged
    return HeldOut.listed(rows, folds, (total / mass)[:, None])


def _design_problems(design: DesignGroup) -> LinearProblems:
    """Return the inner problems of folds that share X."""
    X, groups = design.inner.X, design.inner.groups
    return linear_problems(
        design.model, X, design.y, groups, training_weights(design), held_out_rows(design)
    )


def fold_problems(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    cv: Any = None,
    penalty: Any = "shared",
    sample_weight: Any = None,
    groups: Any = None,
    random_state: Any = None,
) -> ProblemSet:
    """Return the bilevel problem that :class:`ShineCV` solves, for your own call of :func:`hoag`.

    Parameters
    ----------
    estimator : estimator instance
        One that :class:`ShineCV` can tune.
    X : array-like or sparse matrix of shape (n_samples, n_features)
        What a pipeline's transformers take, if ``estimator`` is one.
    y : array-like of shape (n_samples,) or (n_samples, n_targets)
    cv, penalty, random_state
        As in :class:`ShineCV`.
    sample_weight, groups : array-like of shape (n_samples,), optional
        As in :meth:`ShineCV.fit`.

    Returns
    -------
    problems : ProblemSet
        Its theta is the logarithm of alpha; alpha is 1/C for LogisticRegression. Where it makes no
        difference to the problem, the median is taken off the targets and thus off the intercepts.

    Raises
    ------
    ValueError, TypeError
        For bad input; the message names the argument.
    """
    data = FoldedData(
        estimator,
        blocks_or_memory(X),
        in_memory(y),
        cv=cv,
        sample_weight=in_memory(sample_weight),
        split_params={"groups": in_memory(groups)},
        random_state=random_state,
    )
    groups = data.groups(penalty, data.designs)
    return problems_of(
        [p.with_groups(g, reduce=False) for p, g in zip(data.designs, groups, strict=True)]
    )
