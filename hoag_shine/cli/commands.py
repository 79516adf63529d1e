"""The commands ``hoag-shine tune`` and ``hoag-shine predict``."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import signature
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from scipy import sparse
from sklearn.base import is_classifier
from sklearn.linear_model import (
    GammaRegressor,
    HuberRegressor,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
    TweedieRegressor,
)
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from .._version import __version__
from ..datasets import Matrix, load_dataset, load_svmlight
from ..hypergradients import METHODS
from ..linalg.row_blocks import MappedBlocks, as_row_blocks
from ..outer.hoag import SELECTIONS
from ..outer.steps import Outcome
from ..persistence import load_model, save_model
from ..search import ShineCV
from ..search.summary import loss_name, spread, summary_rows
from ..utils.validation import check_count, check_seed
from . import ERROR, INTERRUPTED
from .stored import (
    ParquetColumns,
    TableBlocks,
    check_can_stay,
    limited,
    load_array,
    memory_size,
    stored_svmlight,
)
from .tables import TableEncoder, is_table, read_table, take_column

DATA_HELP = (
    "an svmlight/libsvm file (also .gz, .bz2), a table (.csv, .tsv, .parquet; needs --target), an "
    "array of NumPy's (.npy; needs --target), "
    "- for standard input, libsvm:NAME (a set known to libsvmdata, for instance libsvm:a9a), "
    "sklearn:NAME (for instance sklearn:breast_cancer), or tabular:NAME, text:NAME or images:NAME "
    "in the folder that HOAG_SHINE_DATA names"
)
EXAMPLES = """examples:
  hoag-shine tune sklearn:wine --standardize
  hoag-shine tune train.svm.gz --estimator svm --n-jobs 2
  hoag-shine tune houses.csv --target price --groups town
  hoag-shine tune houses.csv --target price --save model
  hoag-shine predict model new.csv --output prices.txt
"""
ESTIMATORS: dict[str, Any] = {
    "logistic": LogisticRegression,
    "svm": LinearSVC,
    "ridge-classifier": RidgeClassifier,
    "ridge": Ridge,
    "huber": HuberRegressor,
    "poisson": PoissonRegressor,
    "gamma": GammaRegressor,
    "tweedie": TweedieRegressor,
}
# Most different whole numbers that are taken for labels of classes.
# Why: by judgement; the user is told, and --estimator overrides.
MAX_LABELS = 20
# Rows that each of them must have on average.
# Why: by judgement; as many as there are folds by default.
MIN_ROWS_PER_LABEL = 5
DEFAULTS = {name: option.default for name, option in signature(ShineCV).parameters.items()}


@dataclass
class Data:
    """What DATA holds.

    Attributes
    ----------
    X : ndarray, CSR matrix or RowBlocks of shape (n_rows, n_columns)
    y : ndarray of shape (n_rows,), or None where there is no target
    groups : ndarray of shape (n_rows,), or None
    notes : dict
        What is kept with a model, so that other data can be read in the same way.
    """

    X: Any
    y: Any
    groups: Any = None
    notes: dict[str, Any] = field(default_factory=dict)


def run(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments, by default those of the process.

    Returns
    -------
    code : int
        0 for success, 2 for an error, whose message is one line on standard error, 130 after
        Ctrl-C.
    """
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.command(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output has ended; the interpreter's last flush must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return _say("interrupted", INTERRUPTED)
    except MemoryError as error:
        return _say(f"error: there is not enough memory. {error}", ERROR)
    # Files that are cut while they are read raise EOFError and, within a search, RuntimeError.
    except (ValueError, TypeError, OSError, ImportError, EOFError, RuntimeError) as error:
        return _say(f"error: {error}", ERROR)
    return code


def _say(message: str, code: int = 0) -> int:
    _tell(Console(stderr=True, highlight=False), f"hoag-shine: {' '.join(message.split())}")
    return code


def _tell(console: Console, text: str) -> None:
    """Print a sentence: by words on a terminal, elsewhere as one line."""
    console.print(text, markup=False, emoji=False, soft_wrap=not console.is_terminal)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hoag-shine",
        description="Tune the penalty of a linear model by hypergradients, and predict with it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, add, text in (
        ("tune", _add_tune, "choose the penalty by cross-validation"),
        ("predict", _add_predict, "predict with a model saved by tune"),
    ):
        add(
            commands.add_parser(
                name,
                help=text,
                epilog=EXAMPLES,
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
        )
    return parser


def _add_tune(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Choose C or alpha of a linear model by the loss on held-out folds.\n"
        "Ctrl-C ends the search with the best so far."
    )
    parser.set_defaults(command=_tune)
    parser.add_argument("data", metavar="DATA", help=DATA_HELP)
    parser.add_argument(
        "--target",
        metavar="COLUMN|FILE",
        help="of a table, the column to predict, by its name; of an array, a file of labels (.npy)",
    )
    parser.add_argument(
        "--memory",
        metavar="SIZE",
        type=memory_size,
        help="such as 2GB: leave DATA in its file, .parquet or .npy, and get no more memory than "
        "that; svmlight is converted once, into a folder beside the file",
    )
    parser.add_argument(
        "--estimator",
        choices=["auto", *ESTIMATORS],
        default="auto",
        metavar="NAME",
        help="auto (default): logistic where the labels are text, two values, or at most "
        f"{MAX_LABELS} whole numbers with {MIN_ROWS_PER_LABEL} rows each on average, ridge "
        f"otherwise; or {', '.join(ESTIMATORS)}",
    )
    parser.add_argument(
        "--power",
        type=float,
        metavar="P",
        help="of tweedie: the variance grows with this power of the mean",
    )
    parser.add_argument("--no-intercept", action="store_true", help="fit no intercept")
    parser.add_argument(
        "--standardize",
        action="store_true",
        help="divide each column by its standard deviation, and centre it if X is dense; the "
        "coefficients that are saved are those of the columns as they are in DATA",
    )
    parser.add_argument(
        "--penalty",
        choices=["shared", "feature", "output"],
        default="shared",
        help="one for all coefficients (default), for each column, or for each of several classes",
    )
    parser.add_argument(
        "--folds", type=int, metavar="N", default=5, help="number of folds (default: 5)"
    )
    parser.add_argument(
        "--groups",
        metavar="COLUMN|FILE",
        help="rows of a group are held out together: a column of the table, or a file with a line "
        "for each row",
    )
    parser.add_argument(
        "--seed",
        type=int,
        metavar="N",
        default=0,
        help="seed of the shuffling into folds (default: 0)",
    )
    parser.add_argument(
        "--scoring",
        metavar="NAME",
        action="append",
        help="a score of scikit-learn to report beside the loss, such as accuracy; may be repeated",
    )
    parser.add_argument(
        "--hypergradient",
        choices=list(METHODS),
        metavar="NAME",
        help=f"how to get the derivative: {', '.join(METHODS)} "
        f"(default: {DEFAULTS['hypergradient']})",
    )
    parser.add_argument(
        "--bounds",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="smallest and largest penalty parameter, C or alpha (default: {:g} {:g})".format(
            *DEFAULTS["bounds"]
        ),
    )
    parser.add_argument(
        "--selection",
        choices=SELECTIONS,
        help="min (default), or one-se: the strongest penalty within a standard error of the best",
    )
    parser.add_argument(
        "--tol",
        type=float,
        help=f"tolerance on the logarithm of the penalty (default: {DEFAULTS['tol']})",
    )
    parser.add_argument(
        "--max-iter",
        type=int,
        metavar="N",
        help=f"largest number of outer iterations (default: {DEFAULTS['max_iter']})",
    )
    parser.add_argument(
        "--max-time", type=float, metavar="SECONDS", help="end with the best so far (default: none)"
    )
    parser.add_argument(
        "--n-jobs", type=int, metavar="N", help="threads, -1 for all cores (default: 1)"
    )
    parser.add_argument(
        "--quiet", action="store_true", help="print nothing but NAME=VALUE of the chosen penalty"
    )
    parser.add_argument(
        "--plot", metavar="FILE", type=Path, help="draw the path of the search (needs matplotlib)"
    )
    parser.add_argument(
        "--save", metavar="FILE", type=Path, help="write the model for predict, as safetensors"
    )


def _add_predict(parser: argparse.ArgumentParser) -> None:
    parser.description = "Print a prediction for each row of DATA, and how good they are."
    parser.set_defaults(command=_predict)
    parser.add_argument("model", metavar="MODEL", help="file written by tune --save")
    parser.add_argument("data", metavar="DATA", help=DATA_HELP.replace("; needs --target", ""))
    parser.add_argument(
        "--proba", action="store_true", help="print the probability of each class instead"
    )
    parser.add_argument(
        "--output", metavar="FILE", type=Path, help="where to write them (default: standard output)"
    )


def _tune(arguments: argparse.Namespace) -> int:
    for option, path in (("--plot", arguments.plot), ("--save", arguments.save)):
        _check_target(option, path)
    _check_plot(arguments.plot)
    with limited(arguments.memory):
        return _tune_within(arguments)


def _tune_within(arguments: argparse.Namespace) -> int:
    """Tune, with the memory that there is."""
    with _waiting(arguments.data, quiet=arguments.quiet):
        data = _load(arguments.data, arguments)
    estimator, reason = _estimator(arguments, data.y)
    scaler = _scaler(arguments, data.X)
    X = data.X if scaler is None else _scaled(scaler, data.X)
    with _told_warnings(), _Progress(estimator, reason, quiet=arguments.quiet) as progress:
        search = _search(arguments, estimator, progress, data)
        search.fit(X, data.y, groups=data.groups)
    model = search.best_estimator_
    if scaler is not None:
        _unscale(model, scaler)
    _report(search, arguments, data.X)
    if arguments.save:
        notes = {
            "data": arguments.data,
            "best_params": {k: np.asarray(v).tolist() for k, v in search.best_params_.items()},
            "best_score": search.best_score_,
            "standardized": arguments.standardize,
            **data.notes,
        }
        save_model(model, arguments.save, notes)
    if arguments.plot:
        _plot(search, arguments.plot)
    return INTERRUPTED if search.outcome_ is Outcome.INTERRUPTED else 0


def _search(
    arguments: argparse.Namespace, estimator: Any, progress: _Progress, data: Data
) -> ShineCV:
    names = "hypergradient", "bounds", "tol", "max_iter", "max_time", "selection"
    options = {name: getattr(arguments, name) for name in names}
    return ShineCV(
        estimator,
        cv=_splitter(arguments, estimator, grouped=data.groups is not None),
        penalty=arguments.penalty,
        n_jobs=arguments.n_jobs,
        callback=progress,
        scoring=arguments.scoring,
        **{name: value for name, value in options.items() if value is not None},
    )


def _splitter(arguments: argparse.Namespace, estimator: Any, *, grouped: bool) -> Any:
    check_count("--folds", arguments.folds, least=2)
    check_seed("--seed", arguments.seed)
    shuffled = {"shuffle": True, "random_state": arguments.seed}
    if grouped and not is_classifier(estimator):
        return GroupKFold(arguments.folds)
    plain, of_groups = StratifiedKFold, StratifiedGroupKFold
    kind = (of_groups if grouped else plain) if is_classifier(estimator) else KFold
    return kind(arguments.folds, **shuffled)


def _estimator(arguments: argparse.Namespace, y: Any) -> tuple[Any, str]:
    """Return the estimator, and a phrase that says why it was chosen."""
    if y is None:
        raise ValueError("A table needs --target, the name of the column to predict.")
    labels = np.unique(y)
    name, reason = arguments.estimator, "as asked"
    if name == "auto":
        classes = _are_classes(y, labels)
        name = "logistic" if classes else "ridge"
        kind = "classes" if classes else "numbers"
        reason = f"{labels.size:,} distinct labels are taken for {kind}; --estimator overrides"
    cls = ESTIMATORS[name]
    options = {"fit_intercept": not arguments.no_intercept}
    if arguments.power is not None:
        if name != "tweedie":
            raise ValueError("--power needs --estimator tweedie.")
        options["power"] = arguments.power
    estimator = cls(**options)
    if labels.size < 2:
        raise ValueError(
            f"All labels of DATA are {labels.tolist()[0]!r}: there is nothing to tell apart."
        )
    if labels.dtype.kind not in "fiub" and not is_classifier(estimator):
        raise ValueError(f"--estimator {name} needs numbers as labels, and those of DATA are text.")
    return estimator, f"{cls.__name__} ({reason})"


def _are_classes(y: Any, labels: NDArray[Any]) -> bool:
    """Whether labels are those of classes: text, two values, or few whole numbers."""
    if labels.dtype.kind not in "fiub" or labels.size <= 2:
        return True
    whole = bool((labels == np.round(labels)).all())
    return whole and labels.size <= min(MAX_LABELS, len(y) / MIN_ROWS_PER_LABEL)


def _scaler(arguments: argparse.Namespace, X: Any) -> StandardScaler | None:
    if not arguments.standardize:
        return None
    # A sparse X would become dense, and without an intercept nothing could undo the centring.
    return StandardScaler(with_mean=not _is_sparse(X) and not arguments.no_intercept)


def _scaled(scaler: StandardScaler, X: Any) -> Any:
    """Return X scaled, after a pass over it."""
    blocks = as_row_blocks(X)
    if blocks is None:
        return scaler.fit_transform(X)
    for block in blocks.row_blocks():
        scaler.partial_fit(block)
    return MappedBlocks(blocks, scaler.transform, X.shape[1], X.dtype)


def _is_sparse(X: Any) -> bool:
    """Whether X is sparse, or its first block if it is in a file."""
    blocks = as_row_blocks(X)
    return sparse.issparse(X if blocks is None else next(iter(blocks.row_blocks())))


def _unscale(model: Any, scaler: StandardScaler) -> None:
    """Rewrite a model of the scaled columns as one of the columns as they were."""
    model.coef_ = model.coef_ / scaler.scale_
    if scaler.with_mean:
        model.intercept_ = model.intercept_ - model.coef_ @ scaler.mean_


class _Progress:
    """A callback of the search that prints a line on standard error for each outer iteration."""

    def __init__(self, estimator: Any, reason: str, *, quiet: bool) -> None:
        self._console = Console(stderr=True, highlight=False, quiet=quiet)
        self._live = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=quiet or not self._console.is_terminal,
        )
        self._live.add_task("tuning", total=None)
        parameter, loss = _names(estimator)
        names = "iteration", parameter, loss, "|hypergradient|", "passes", "seconds"
        self._header = [f"hoag-shine: {reason}", _line(names, self._console.width)]

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._live.disable:  # old versions of rich would print an empty line
            self._live.stop()

    def __call__(self, record: Mapping[str, Any]) -> None:
        while self._header:
            _tell(self._console, self._header.pop(0))
        (value,) = record["params"].values()
        cells = (
            f"{record['iteration']}",
            spread(value, "{:.3g}" if np.size(value) > 1 else "{:.5g}", ".."),
            f"{record['criterion']:.7g}",
            f"{record['hypergradient_norm']:.3g}",
            f"{record['data_passes']:.1f}",
            f"{record['seconds']:.2f}",
        )
        self._console.print(_line(cells, self._console.width))


# Widths of the columns in characters, and those that a narrow terminal shows.
WIDTHS, NARROW = (9, 17, 18, 15, 7, 8), (0, 1, 2, 5)


def _line(cells: Sequence[str], width: int) -> str:
    """Return cells in columns, as many as there is room for."""
    wide = sum(WIDTHS) + len(WIDTHS) - 1 <= width
    return " ".join(f"{cells[k]:>{WIDTHS[k]}}" for k in (range(len(cells)) if wide else NARROW))


def _names(estimator: Any) -> tuple[str, str]:
    """Return what the hyperparameter and the loss are called."""
    return ("C" if hasattr(estimator, "C") else "alpha"), loss_name(estimator)


@contextmanager
def _told_warnings() -> Iterator[None]:
    """Print warnings as lines on standard error, each once, after the work."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        yield
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        _say(f"warning: {_without_traceback(message)}")


def _without_traceback(message: str) -> str:
    """Return a message without the traceback in it, of which the last line is kept."""
    head, found, calls = message.rstrip().partition("Traceback (most recent call last):")
    return head + calls.splitlines()[-1] if found else message


def _report(search: ShineCV, arguments: argparse.Namespace, X: Any) -> None:
    ((name, value),) = search.best_params_.items()
    if arguments.quiet:
        print(f"{name}={np.asarray(value).tolist()!r}")
        return
    kind = "sparse" if _is_sparse(X) else "dense"
    table = Table(show_header=False, highlight=False)
    table.add_row("data", escape(arguments.data))
    table.add_row("rows, columns", f"{X.shape[0]:,}, {X.shape[1]:,} ({kind})")
    for row in summary_rows(search):
        table.add_row(*map(escape, row), style="bold" if row[0].startswith(name) else None)
    for score in arguments.scoring or []:
        mean = search.cv_results_[f"mean_test_{score}"][search.best_index_]
        table.add_row(f"held-out {score}", f"{mean:.6g}")
    Console().print(table)


def _plot(search: ShineCV, path: Path) -> None:
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    from ..plotting import ShinePathDisplay

    mpl.use("Agg")  # a file needs no window
    figure = ShinePathDisplay.from_estimator(search).figure_
    figure.savefig(path)
    plt.close(figure)


def _check_plot(path: Path | None) -> None:
    """Refuse, before the search, a name of a plot that would fail after it."""
    if path is None:
        return
    from sklearn.utils._optional_dependencies import check_matplotlib_support

    check_matplotlib_support("--plot")
    from matplotlib.figure import Figure

    known = Figure().canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise ValueError(f"--plot {path}: the name must end in one of .{', .'.join(known)}.")


def _check_target(option: str, path: Path | None) -> None:
    """Refuse, before the work, a file that could not be written after it."""
    if path is None:
        return
    folder = path.parent
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {str(folder)!r} to write {path.name} to.")
    if path.is_dir():
        raise IsADirectoryError(f"{option} {str(path)!r} is a folder: give the name of a file.")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise PermissionError(f"{option} {str(path)!r} cannot be written.")


@contextmanager
def _waiting(name: str, *, quiet: bool = False) -> Iterator[None]:
    """Show on a terminal what is being read, as long as it takes."""
    console = Console(stderr=True, highlight=False)
    if quiet or not console.is_terminal:
        yield
        return
    source = "standard input" if name == "-" else name
    with console.status(f"reading {escape(source)}"):
        yield


def _load(
    name: str,
    arguments: argparse.Namespace | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Data:
    """Load data: to tune, by the arguments, or to predict, by the notes of a model."""
    target = getattr(arguments, "target", None)
    in_file = getattr(arguments, "memory", None) is not None
    if in_file:
        check_can_stay(name)
    if name.lower().endswith(".npy"):
        return _load_arrays(name, arguments, notes, mapped=in_file)
    tabular = is_table(name) or (name == "-" and bool(target or (notes or {}).get("columns")))
    if tabular:
        return _load_table(name, arguments, notes, in_file=in_file)
    if target is not None:
        raise ValueError("--target names a column of a table, and DATA is none: name it .csv.")
    if notes and notes.get("columns"):
        raise ValueError("MODEL was fitted on a table, and DATA is none.")
    groups = _groups(arguments)
    if name == "-" or Path(name).is_file():
        if in_file:
            X, y, zero_based = stored_svmlight(Path(name), _teller(arguments))
            return Data(X, y, groups, {"zero_based": zero_based})
        source: Any = BytesIO(sys.stdin.buffer.read()) if name == "-" else name
        zero_based = (notes or {}).get("zero_based", "auto")
        X, y, zero_based = load_svmlight(source, zero_based=zero_based)
        return Data(X, y, groups, {"zero_based": zero_based})
    return Data(*load_dataset(name), groups)


def _teller(arguments: argparse.Namespace | None) -> Callable[[str], Any]:
    """Return what tells the user of something that takes long."""
    return (lambda _: None) if arguments is not None and arguments.quiet else _say


def _load_arrays(
    name: str,
    arguments: argparse.Namespace | None,
    notes: Mapping[str, Any] | None,
    *,
    mapped: bool,
) -> Data:
    """Load an array of NumPy's and, to tune, another one with the labels."""
    if notes is not None and notes.get("columns"):
        raise ValueError("MODEL was fitted on a table, and DATA is none.")
    X = load_array(name, mapped=mapped)
    if X.ndim != 2:
        raise ValueError(f"DATA must have two axes, rows and columns, but it has {X.ndim}.")
    if arguments is None:
        return Data(X, None)
    if arguments.target is None:
        raise ValueError("An array needs --target, a file with a label for each row (.npy).")
    y = load_array(arguments.target, mapped=False)
    if y.ndim != 1:
        raise ValueError(f"--target must have a label for each row, but its shape is {y.shape}.")
    return Data(X, _target(y), _groups(arguments))


def _load_table(
    name: str,
    arguments: argparse.Namespace | None,
    notes: Mapping[str, Any] | None,
    *,
    in_file: bool,
) -> Data:
    if in_file:
        table: Any = ParquetColumns(name)
    else:
        table = read_table(BytesIO(sys.stdin.buffer.read()) if name == "-" else name)
    if notes is not None:
        if not notes.get("columns"):
            raise ValueError("MODEL was not fitted on a table, and DATA is one.")
        y = table.get(notes["target"])
        return Data(TableEncoder(notes["columns"]).transform(table), y)
    assert arguments is not None
    if arguments.target is None:
        columns = ", ".join(list(table)[:20])
        raise ValueError(f"A table needs --target, the column to predict; it has {columns}.")
    y = _target(take_column(table, arguments.target, "--target"))
    groups = _groups(arguments, table)
    encoder = table.encoder() if in_file else TableEncoder.fit(table)
    X = TableBlocks(name, encoder, table.n_rows) if in_file else encoder.transform(table)
    return Data(X, y, groups, {"columns": encoder.columns, "target": arguments.target})


def _target(y: NDArray[Any]) -> NDArray[Any]:
    """Return a column as labels; raise if any is missing."""
    if y.dtype != object:
        if y.dtype.kind == "f" and np.isnan(y).any():
            raise ValueError(f"The target has {np.isnan(y).sum():,} rows without a value.")
        return y
    missing = sum(v is None for v in y)
    if missing:
        raise ValueError(f"The target has {missing:,} rows without a value.")
    return y.astype(str)


def _groups(arguments: argparse.Namespace | None, table: Any = None) -> Any:
    """Return the group of each row: a column of the table, or the lines of a file."""
    wanted = getattr(arguments, "groups", None)
    if wanted is None:
        return None
    if table is not None and wanted in table:
        return np.array([str(v) for v in take_column(table, wanted, "--groups")])
    if not Path(wanted).is_file():
        raise FileNotFoundError(f"--groups {wanted!r} is neither a column of a table nor a file.")
    return np.array(Path(wanted).read_text(encoding="utf-8").split("\n"))[:-1]


def _predict(arguments: argparse.Namespace) -> int:
    _check_target("--output", arguments.output)
    model, notes = load_model(arguments.model)
    if arguments.proba and not hasattr(model, "predict_proba"):
        raise ValueError(
            f"--proba needs a model of probabilities; {arguments.model} holds {model}."
        )
    with _waiting(arguments.data):
        data = _load(arguments.data, notes=notes)
    X = _with_columns(data.X, model.n_features_in_)
    _write(model, X, arguments)
    if data.y is not None:
        _tell_score(model, X, data.y)
    return 0


def _with_columns(X: Matrix, n_features: int) -> Matrix:
    """Append empty columns: an svmlight file does not say how many come after the last entry."""
    if X.shape[1] == n_features:
        return X
    if X.shape[1] > n_features or isinstance(X, np.ndarray):
        raise ValueError(f"DATA has {X.shape[1]} columns, but MODEL was fitted on {n_features}.")
    return sparse.csr_matrix((X.data, X.indices, X.indptr), shape=(X.shape[0], n_features))


def _write(model: Any, X: Matrix, arguments: argparse.Namespace) -> None:
    if arguments.proba:
        answers, form = model.predict_proba(X), "%.9g"
        header = " ".join(_label_form(model.classes_) % label for label in model.classes_)
    else:
        answers, header = model.predict(X), ""
        form = _label_form(answers)
    np.savetxt(arguments.output or sys.stdout, answers, fmt=form, header=header)


def _label_form(labels: NDArray[Any]) -> str:
    return "%.15g" if labels.dtype.kind in "fiu" else "%s"


def _tell_score(model: Any, X: Matrix, y: Any) -> None:
    """Print a score of the predictions, if DATA has labels and not just placeholders."""
    distinct = list(dict.fromkeys(np.asarray(y).tolist()))
    if len(distinct) < 2:
        _say(f"all labels are {distinct[0]!r}: taken for placeholders, not for a score")
    elif is_classifier(model) and np.isin(distinct, model.classes_).all():
        _say(f"accuracy {model.score(X, y):.6g} on {len(y):,} rows")
    elif not is_classifier(model) and np.asarray(y).dtype.kind in "fiub":
        _say(f"R2 {model.score(X, y):.6g} on {len(y):,} rows")
