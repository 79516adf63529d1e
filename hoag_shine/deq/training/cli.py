"""The command ``hoag-shine-deq``, which trains and tests multiscale DEQ classifiers."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import os
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..._version import __version__
from ...cli import ERROR, INTERRUPTED
from ...utils.files import reading
from ..backward import METHODS, RECORDERS
from ..mdeq import CONFIGS, MDEQ
from ..solvers import SOLVERS
from .data import Images, load_images
from .loop import Recipe, Trainer, check_device, evaluate, load_model
from .streaming import ImageStream, stream_images

DATA_HELP = (
    "sklearn:digits, a .npz file with X_train, y_train, X_test and y_test (MNIST), a folder of "
    "CIFAR-10 sheets (train_*.webp), cifar-10-batches-py, or a folder with train/CLASS/*.png and "
    "test/CLASS/*.png"
)
# Fields of the config that options of the same names override.
OVERRIDES = (
    "epochs",
    "batch_size",
    "lr",
    "pretrain_steps",
    "max_iter",
    "tol",
    "stop",
    "dropout",
    "weight_decay",
    "optimizer",
)


def main(argv: Sequence[str] | None = None) -> int:
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
    try:
        arguments = _parser().parse_args(_with_file(sys.argv[1:] if argv is None else argv))
        arguments.command(arguments)
    except KeyboardInterrupt:
        _say("interrupted; --resume continues from the last checkpoint")
        return INTERRUPTED
    except (ValueError, TypeError, OSError, ImportError, FloatingPointError) as error:
        _say(f"error: {error}")
        return ERROR
    return 0


def _with_file(argv: Sequence[str]) -> list[str]:
    """Return the arguments with those of an ``--options`` file before them, which they override."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--options", type=Path)
    given, rest = first.parse_known_args(argv)
    if given.options is None:
        return list(argv)
    with reading(given.options, "a TOML file of options"):
        found = tomllib.loads(given.options.read_text(encoding="utf-8"))
    words = []
    for name, value in found.items():
        if isinstance(value, dict | list):
            raise ValueError(f"{given.options}: {name} must be a text, a number, true or false.")
        if value is True:
            words.append(f"--{name}")
        elif value is not False:
            words.append(f"--{name}={value}")
    return [*rest[:1], *words, *rest[1:]]


def _say(message: str) -> None:
    print("hoag-shine-deq:", " ".join(message.split()), file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hoag-shine-deq", description="Train multiscale deep equilibrium classifiers."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    train = commands.add_parser("train", help="train a model")
    train.set_defaults(command=_train)
    _add_common(train)
    _add_model(train)
    _add_training(train)
    test = commands.add_parser("evaluate", help="test the newest checkpoint of a run")
    test.set_defaults(command=_evaluate)
    _add_common(test)
    test.add_argument(
        "--best", action="store_true", help="test the best checkpoint of a run with --keep-best"
    )
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--options",
        type=Path,
        metavar="FILE",
        help="a TOML file with options such as lr = 0.01; the command line overrides it",
    )
    parser.add_argument("--data", required=True, help=DATA_HELP)
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("deq-run"),
        help="folder of the run (default: %(default)s)",
    )
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="cpu, cuda, cuda:1, ... (default: %(default)s)",
    )
    parser.add_argument(
        "--amp",
        choices=["no", "bf16", "fp16"],
        default="no",
        help="automatic mixed precision; the solver's state stays in float32 (default: no)",
    )
    parser.add_argument("--limit", type=int, help="use only the first images of each set")
    parser.add_argument(
        "--image-size",
        type=int,
        metavar="PIXELS",
        help="read a folder's images when they are needed, and scale them to this size; training "
        "takes random crops",
    )
    parser.add_argument(
        "--workers", type=int, default=4, help="threads that read images (default: 4)"
    )
    parser.add_argument(
        "--eval-batch-size", type=int, default=500, help="images in a test batch (default: 500)"
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", choices=list(CONFIGS), default="small", help="the model (default: small)"
    )
    parser.add_argument(
        "--solver",
        choices=list(SOLVERS),
        default="broyden",
        help="solver of the forward pass (default: broyden)",
    )
    parser.add_argument("--memory", type=int, help="iterates or updates that the solver stores")
    parser.add_argument(
        "--opa-every",
        type=int,
        metavar="STEPS",
        help="steps between updates of adjoint-broyden for outer-problem awareness (default: 5)",
    )
    parser.add_argument(
        "--no-opa", action="store_true", help="adjoint-broyden without outer-problem awareness"
    )
    parser.add_argument(
        "--backward",
        choices=[*METHODS, *RECORDERS, "unrolled"],
        default="auto",
        help="backward method (default: auto)",
    )
    parser.add_argument(
        "--backward-tol",
        type=float,
        metavar="TOL",
        help="residual at which auto (default: 0.1) and implicit (default: 1e-6) stop",
    )
    parser.add_argument(
        "--backward-steps",
        type=int,
        metavar="STEPS",
        help="steps of phantom gradients (default: 5), or the largest number of products of auto "
        "(10) and implicit (30)",
    )
    parser.add_argument(
        "--damping", type=float, help="damping of phantom gradients' steps (default: 0.5)"
    )
    parser.add_argument(
        "--refine", type=int, default=0, help="GMRES steps that refine the adjoint (default: 0)"
    )
    parser.add_argument(
        "--fallback",
        choices=["auto", "residual", "norm-ratio"],
        default="auto",
        help="test of each sample's adjoint; the Jacobian-free one is used where it fails "
        "(default: auto)",
    )


def _add_training(parser: argparse.ArgumentParser) -> None:
    for name, kind in {
        "epochs": int,
        "batch-size": int,
        "lr": float,
        "pretrain-steps": int,
        "max-iter": int,
        "tol": float,
        "dropout": float,
        "weight-decay": float,
    }.items():
        parser.add_argument(f"--{name}", type=kind, help="instead of the config's")
    parser.add_argument("--optimizer", choices=["adam", "sgd"], help="instead of the config's")
    parser.add_argument(
        "--stop",
        choices=["relative", "absolute", "batch"],
        help="the residual that is compared with --tol; instead of the config's",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of weights, order and augmentation (default: 0)"
    )
    parser.add_argument(
        "--clip",
        type=float,
        default=1.0,
        help="largest norm of the gradient; 0: no clipping (default: 1)",
    )
    parser.add_argument(
        "--jacobian-weight",
        type=float,
        default=0.0,
        help="weight of the Jacobian penalty (default: 0)",
    )
    parser.add_argument("--no-augment", action="store_true", help="do not augment images")
    parser.add_argument("--no-flip", action="store_true", help="never mirror images")
    parser.add_argument(
        "--channels-last", action="store_true", help="memory format of images and convolutions"
    )
    parser.add_argument(
        "--checkpoint-every",
        type=int,
        default=500,
        metavar="STEPS",
        help="steps between two checkpoints; one is also saved after each epoch (default: 500)",
    )
    parser.add_argument(
        "--log-every",
        type=int,
        default=20,
        metavar="STEPS",
        help="steps between two rows of log.csv (default: 20)",
    )
    parser.add_argument(
        "--no-tensorboard", action="store_true", help="write no event files for TensorBoard"
    )
    parser.add_argument(
        "--keep-best",
        action="store_true",
        help="also keep the checkpoint with the best test accuracy",
    )
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint")


def _train(arguments: argparse.Namespace) -> None:
    distributed = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if distributed:
        _join(arguments)
    try:
        _run(arguments)
    finally:
        if distributed:
            torch.distributed.destroy_process_group()


def _join(arguments: argparse.Namespace) -> None:
    """Join the processes that torchrun has started, one device each."""
    on_cpu = arguments.device == "cpu"
    if not on_cpu:
        arguments.device = f"cuda:{os.environ['LOCAL_RANK']}"
        check_device(arguments.device)
        torch.cuda.set_device(arguments.device)
    torch.distributed.init_process_group("gloo" if on_cpu else "nccl")


def _run(arguments: argparse.Namespace) -> None:
    trainer = _trainer(arguments)
    if arguments.resume:
        trainer.resume()
    elif any((trainer.folder / name).exists() for name in ("checkpoints", "log.csv")):
        raise ValueError(
            f"{trainer.folder} holds another run: add --resume to continue it, or choose another "
            "--output."
        )
    console = Console(stderr=True, quiet=trainer.rank != 0)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=trainer.rank != 0) as bar:
        task = bar.add_task("training", total=trainer.total_steps, completed=trainer.step)

        def show(step: int, row: dict[str, Any]) -> None:
            bar.update(task, completed=step)
            if "test_accuracy" in row:
                epoch, accuracy = int(row["epoch"]), row["test_accuracy"]
                bar.update(task, description=f"epoch {epoch}: accuracy {accuracy:.4f}")

        trainer.run(show)
    if trainer.rank == 0:
        _print_scores(trainer.evaluate())


def _evaluate(arguments: argparse.Namespace) -> None:
    model, normalize = load_model(arguments.output, best=arguments.best)
    _, test = _images(arguments)
    recipe = Recipe(
        device=arguments.device, amp=arguments.amp, eval_batch_size=arguments.eval_batch_size
    )
    model = model.to(recipe.device)
    _print_scores(evaluate(model, normalize, test.first(arguments.limit), recipe))


def _images(arguments: argparse.Namespace) -> tuple[Images | ImageStream, Images | ImageStream]:
    if arguments.image_size is None:
        return load_images(arguments.data)
    return stream_images(arguments.data, arguments.image_size, arguments.workers)


def _trainer(arguments: argparse.Namespace) -> Trainer:
    train, test = (part.first(arguments.limit) for part in _images(arguments))
    overrides = {
        name: value for name in OVERRIDES if (value := getattr(arguments, name)) is not None
    }
    config = dataclasses.replace(
        CONFIGS[arguments.config],
        in_channels=train.channels,
        n_classes=int(train.labels.max()) + 1,
        **overrides,
    )
    torch.manual_seed(arguments.seed)
    model = MDEQ(
        config,
        solver=_with_options(SOLVERS, arguments.solver, arguments, ("memory", "opa_every")),
        backward=_backward(arguments),
        backward_tol=arguments.backward_tol,
        refine=arguments.refine,
        fallback=arguments.fallback,
    )
    recipe = Recipe(
        seed=arguments.seed,
        device=arguments.device,
        amp=arguments.amp,
        clip=arguments.clip,
        opa=not arguments.no_opa,
        jacobian_weight=arguments.jacobian_weight,
        augment=not arguments.no_augment,
        flip=not arguments.no_flip,
        channels_last=arguments.channels_last,
        log_every=arguments.log_every,
        checkpoint_every=arguments.checkpoint_every,
        tensorboard=not arguments.no_tensorboard,
        eval_batch_size=arguments.eval_batch_size,
        keep_best=arguments.keep_best,
    )
    return Trainer(model, train, test, recipe, arguments.output)


def _backward(arguments: argparse.Namespace) -> Any:
    """Return the backward method; --backward-steps is its ``steps`` or its ``max_iter``."""
    table: dict[str, Callable[..., Any]] = {**METHODS, **RECORDERS}
    name = arguments.backward
    known = inspect.signature(table[name]).parameters if name in table else {}
    steps = "steps" if "steps" in known else "max_iter"
    return _with_options(table, name, arguments, ("damping",), {steps: "backward_steps"})


def _with_options(
    table: Mapping[str, Any],
    name: str,
    arguments: argparse.Namespace,
    options: Sequence[str],
    others: Mapping[str, str] = MappingProxyType({}),
) -> Any:
    """Return a function of the table with the options that were given, or its name if none were.

    Parameters
    ----------
    others : mapping of str to str
        Arguments of the function whose options have other names.
    """
    named = {key: key for key in options} | dict(others)
    given = {k: v for k, option in named.items() if (v := getattr(arguments, option)) is not None}
    for key in given:
        if name not in table or key not in inspect.signature(table[name]).parameters:
            raise ValueError(f"--{named[key].replace('_', '-')} is of no use to {name}.")
    return partial(table[name], **given) if given else name


def _print_scores(scores: dict[str, Any]) -> None:
    print(" ".join(f"{name}={value:.4f}" for name, value in scores.items()))
