"""The commands ``hoag-shine tune`` and ``hoag-shine predict``."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from scipy import sparse
from sklearn.base import is_classifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.preprocessing import StandardScaler

from ._version import __version__
from .datasets import Matrix, load_dataset, load_svmlight
from .hypergradients import METHODS
from .persistence import load_model, save_model
from .search import ShineCV
from .steps import Outcome

DATA_HELP = (
    "an svmlight/libsvm file (also .gz, .bz2), libsvm:NAME (a set known to libsvmdata, for "
    "instance libsvm:a9a), sklearn:NAME (for instance sklearn:breast_cancer), or tabular:NAME or "
    "text:NAME in the folder that HOAG_SHINE_DATA names"
)
ERROR, INTERRUPTED = 2, 130  # exit codes: as argparse's, and the shell's for Ctrl-C


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments, by default those of the process.

    Returns
    -------
    code : int
        0 for success, 2 for an error that is told in one line on standard error, 130 after Ctrl-C.
    """
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.command(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever reads our output has enough of it; let the interpreter's last flush go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return _say("interrupted", INTERRUPTED)
    except MemoryError as error:
        return _say(f"error: there is not enough memory. {error}", ERROR)
    except (ValueError, TypeError, OSError, ImportError) as error:
        return _say(f"error: {error}", ERROR)
    return code


def _say(message: str, code: int = 0) -> int:
    print("hoag-shine:", " ".join(message.split()), file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hoag-shine",
        description="Tune the penalty of a linear model by hypergradients, and predict with it.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_tune(commands.add_parser("tune", help="choose the penalty by cross-validation"))
    _add_predict(commands.add_parser("predict", help="predict with a model saved by tune"))
    return parser


def _add_tune(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Choose C of a logistic regression, or alpha of a ridge regression, by the loss on held-out"
        " folds. Ctrl-C ends the search with the best so far."
    )
    parser.set_defaults(command=_tune)
    parser.add_argument("data", metavar="DATA", help=DATA_HELP)
    parser.add_argument(
        "--estimator",
        choices=["auto", "logistic", "ridge"],
        default="auto",
        help="auto (default): logistic if there are two distinct labels, ridge otherwise",
    )
    parser.add_argument("--no-intercept", action="store_true", help="fit no intercept")
    parser.add_argument(
        "--standardize",
        action="store_true",
        help="divide each column by its standard deviation, and centre it if X is dense; the "
        "coefficients that are saved are those of the columns as they are in DATA",
    )
    parser.add_argument("--folds", type=int, default=5, help="number of folds (default: 5)")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the shuffling into folds (default: 0)"
    )
    parser.add_argument(
        "--hypergradient", choices=list(METHODS), help="how to get the derivative (default: auto)"
    )
    parser.add_argument(
        "--bounds",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="smallest and largest penalty parameter, C or alpha (default: 1e-8 1e8)",
    )
    parser.add_argument("--tol", type=float, help="tolerance on the logarithm of the penalty")
    parser.add_argument("--max-iter", type=int, help="largest number of outer iterations")
    parser.add_argument("--n-jobs", type=int, help="number of processors to use")
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
    parser.add_argument("data", metavar="DATA", help=DATA_HELP)
    parser.add_argument(
        "--proba", action="store_true", help="print the probability of each class instead"
    )
    parser.add_argument(
        "--output", metavar="FILE", type=Path, help="where to write them (default: standard output)"
    )


def _tune(arguments: argparse.Namespace) -> int:
    for path in (arguments.plot, arguments.save):
        _check_folder(path)
    _check_plot(arguments.plot)
    X, y, zero_based = _load(arguments.data)
    estimator = _estimator(arguments, y)
    scaler = _scaler(arguments, X)
    with _told_warnings(), _Progress(estimator, quiet=arguments.quiet) as progress:
        search = _search(arguments, estimator, progress)
        search.fit(X if scaler is None else scaler.fit_transform(X), y)
    model = search.best_estimator_
    if scaler is not None:
        _unscale(model, scaler)
    _report(search, arguments, X)
    if arguments.save:
        notes = {
            "data": arguments.data,
            "best_params": search.best_params_,
            "best_score": search.best_score_,
            "standardized": arguments.standardize,
            "zero_based": zero_based,
        }
        save_model(model, arguments.save, notes)
    if arguments.plot:
        _plot(search, arguments.plot)
    return INTERRUPTED if search.outcome_ is Outcome.INTERRUPTED else 0


def _search(
    arguments: argparse.Namespace, estimator: LogisticRegression | Ridge, progress: _Progress
) -> ShineCV:
    folds = StratifiedKFold if is_classifier(estimator) else KFold
    names = "hypergradient", "bounds", "tol", "max_iter"
    options = {name: getattr(arguments, name) for name in names}
    return ShineCV(
        estimator,
        cv=folds(arguments.folds, shuffle=True, random_state=arguments.seed),
        n_jobs=arguments.n_jobs,
        callback=progress,
        **{name: value for name, value in options.items() if value is not None},
    )


def _estimator(arguments: argparse.Namespace, y: Any) -> LogisticRegression | Ridge:
    name = arguments.estimator
    if name == "auto":
        name = "logistic" if np.unique(y).size == 2 else "ridge"
    cls = {"logistic": LogisticRegression, "ridge": Ridge}[name]
    return cls(fit_intercept=not arguments.no_intercept)


def _scaler(arguments: argparse.Namespace, X: Matrix) -> StandardScaler | None:
    if not arguments.standardize:
        return None
    # A sparse X would become dense, and without an intercept nothing could undo the centring.
    return StandardScaler(with_mean=not sparse.issparse(X) and not arguments.no_intercept)


def _unscale(model: LogisticRegression | Ridge, scaler: StandardScaler) -> None:
    """Rewrite a model of the scaled columns as one of the columns as they were."""
    model.coef_ = model.coef_ / scaler.scale_
    if scaler.with_mean:
        model.intercept_ = model.intercept_ - model.coef_ @ scaler.mean_


class _Progress:
    """A callback of the search that prints a line on standard error for each outer iteration."""

    def __init__(self, estimator: LogisticRegression | Ridge, *, quiet: bool) -> None:
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
        self._lines = [_line(names)]

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._live.disable:  # old versions of rich would print an empty line
            self._live.stop()
        if len(self._lines) > 1:
            self._console.print(self._lines[-1])

    def __call__(self, record: Mapping[str, Any]) -> None:
        position = record["iteration"] + 1
        is_new = position == len(self._lines)
        (value,) = record["params"].values()
        cells = (
            f"{record['iteration']}",
            f"{value:.5g}",
            f"{record['criterion']:.7g}",
            f"{record['hypergradient_norm']:.3g}",
            f"{record['data_passes']:.1f}",
            f"{record['seconds']:.2f}",
        )
        self._lines[position:] = [_line(cells)]
        # The record of an iteration comes again whenever its inner problems have been refined, so
        # that its line is final, and printed, only when the next iteration has begun.
        if is_new:
            self._console.print(self._lines[-2])


def _line(cells: Sequence[str]) -> str:
    widths = 9, 11, 18, 15, 8, 8
    return " ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))


def _names(estimator: LogisticRegression | Ridge) -> tuple[str, str]:
    """Return what the hyperparameter and the loss are called."""
    return ("C", "log-loss") if is_classifier(estimator) else ("alpha", "mean squared error")


@contextmanager
def _told_warnings() -> Iterator[None]:
    """Tell warnings as lines on standard error, each once, after the work."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        yield
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        _say(f"warning: {message}")


def _report(search: ShineCV, arguments: argparse.Namespace, X: Matrix) -> None:
    ((name, value),) = search.best_params_.items()
    if arguments.quiet:
        print(f"{name}={value!r}")
        return
    history = search.history_
    start = history[0]["params"][name]
    _, loss = _names(search.estimator)
    kind = "sparse" if sparse.issparse(X) else "dense"
    table = Table(show_header=False, highlight=False)
    table.add_row("data", escape(arguments.data))
    table.add_row("rows, columns", f"{X.shape[0]:,}, {X.shape[1]:,} ({kind})")
    table.add_row("estimator", type(search.estimator).__name__)
    table.add_row(f"[bold]{name}", f"[bold]{value:.6g}")
    table.add_row(
        f"held-out {loss}", f"{-search.best_score_:.6g} (mean of {search.n_splits_} folds)"
    )
    table.add_row(f"at the start, {name} = {start:g}", f"{history[0]['criterion']:.6g}")
    table.add_row("outer iterations", f"{len(history)}")
    table.add_row("passes over the data", f"{sum(r['data_passes'] for r in history):.1f}")
    seconds = sum(r["seconds"] for r in history) + search.refit_time_
    table.add_row("seconds, final fit included", f"{seconds:.2f}")
    Console().print(table)


def _plot(search: ShineCV, path: Path) -> None:
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    from .plotting import ShinePathDisplay

    mpl.use("Agg")  # a file needs no window
    figure = ShinePathDisplay.from_estimator(search).figure_
    figure.savefig(path)
    plt.close(figure)


def _check_plot(path: Path | None) -> None:
    """Refuse before the search what would fail after it."""
    if path is None:
        return
    from sklearn.utils._optional_dependencies import check_matplotlib_support

    check_matplotlib_support("--plot")
    from matplotlib.figure import Figure

    known = Figure().canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise ValueError(f"--plot {path}: the name must end in one of .{', .'.join(known)}.")


def _check_folder(path: Path | None) -> None:
    if path is not None and not path.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {str(path.parent)!r} to write {path.name} to.")


def _load(
    name: str, zero_based: bool | Literal["auto"] = "auto"
) -> tuple[Matrix, Any, bool | Literal["auto"]]:
    """Load data, and say from which number its columns are counted if that can be known."""
    if Path(name).is_file():
        return load_svmlight(name, zero_based=zero_based)
    return (*load_dataset(name), "auto")


def _predict(arguments: argparse.Namespace) -> int:
    _check_folder(arguments.output)
    model, notes = load_model(arguments.model)
    if arguments.proba and not is_classifier(model):
        raise ValueError(f"--proba needs a classifier; {arguments.model} holds {model}.")
    X, y, _ = _load(arguments.data, notes.get("zero_based", "auto"))
    X = _with_columns(X, model.n_features_in_)
    _write(model, X, arguments)
    _tell_score(model, X, y)
    return 0


def _with_columns(X: Matrix, n_features: int) -> Matrix:
    """Append the empty columns that an svmlight file cannot show to be there."""
    if X.shape[1] == n_features:
        return X
    if X.shape[1] > n_features or isinstance(X, np.ndarray):
        raise ValueError(f"DATA has {X.shape[1]} columns, but MODEL was fitted on {n_features}.")
    return sparse.csr_matrix((X.data, X.indices, X.indptr), shape=(X.shape[0], n_features))


def _write(model: LogisticRegression | Ridge, X: Matrix, arguments: argparse.Namespace) -> None:
    if arguments.proba:
        answers, form = model.predict_proba(X), "%.9g"
        header = " ".join(_label_form(model.classes_) % label for label in model.classes_)
    else:
        answers, header = model.predict(X), ""
        form = _label_form(answers)
    np.savetxt(arguments.output or sys.stdout, answers, fmt=form, header=header)


def _label_form(labels: NDArray[Any]) -> str:
    return "%.15g" if labels.dtype.kind in "fiu" else "%s"


def _tell_score(model: LogisticRegression | Ridge, X: Matrix, y: Any) -> None:
    """Say how good the predictions are, if DATA has true labels and not mere placeholders."""
    if is_classifier(model) and np.isin(y, model.classes_).all():
        _say(f"accuracy {model.score(X, y):.6g} on {len(y):,} rows")
    elif not is_classifier(model) and np.unique(y).size > 1:
        _say(f"R2 {model.score(X, y):.6g} on {len(y):,} rows")
