import contextlib
import csv
import dataclasses
import hashlib
import io
import itertools
import json
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load, load_file

from hoag_shine.datasets import data_home
from hoag_shine.deq.mdeq import CONFIGS, MDEQ
from hoag_shine.deq.solvers import adjoint_broyden, broyden
from hoag_shine.deq.training import (
    Recipe,
    Trainer,
    load_checkpoint,
    load_images,
    load_model,
    save_checkpoint,
)
from hoag_shine.deq.training.cli import main
from hoag_shine.deq.training.data import augment, channel_statistics, shuffled_batches

COMMAND = "import sys; from hoag_shine.deq.training.cli import main; sys.exit(main())"
QUICK = ["--data", "sklearn:digits", "--limit", "320", "--epochs", "2", "--pretrain-steps", "2"]
QUICK += ["--max-iter", "4", "--device", "cpu", "--no-tensorboard"]


def trained(folder, *options):
    assert main(["train", "--output", str(folder), *QUICK, *options]) == 0
    return newest(folder)


def newest(folder):
    return load((max((folder / "checkpoints").glob("*.safetensors"))).read_bytes())


def start(folder, *options, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, "train", "--output", str(folder), *QUICK, *options],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", **environment},
    )


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_killed_run_ends_in_the_same_bits(tmp_path):
    options = ["--checkpoint-every", "3", "--log-every", "1", "--dropout", "0.3"]
    expected = trained(tmp_path / "whole", *options)
    folder = tmp_path / "killed"
    process = start(folder, *options)
    while not list((folder / "checkpoints").glob("step-00000003.json")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    resumed_from = max((folder / "checkpoints").glob("*.json")).stem
    assert resumed_from < "step-00000010"
    assert same(trained(folder, *options, "--resume"), expected)
    with (folder / "log.csv").open() as file:
        steps = [int(float(row["step"])) for row in csv.DictReader(file)]
    assert steps == list(range(1, 11))


def test_a_damaged_checkpoint_is_passed_over(tmp_path):
    options = ["--checkpoint-every", "4"]
    expected = trained(tmp_path, *options)
    files = sorted((tmp_path / "checkpoints").glob("*.safetensors"))
    content = bytearray(files[-1].read_bytes())
    content[len(content) // 2] ^= 1  # one bit, in a tensor
    files[-1].write_bytes(content)
    with pytest.warns(UserWarning, match=r"step-00000010\.json is skipped: .* SHA-256"):
        again = trained(tmp_path, *options, "--resume")
    assert same(again, expected)


class Killed(BaseException):
    """What a kill looks like from within: nothing that follows is done."""


class HalfWritten:
    """A file that is killed in the middle of a write."""

    def __init__(self, file, happens):
        self.file, self.happens = file, happens

    def __enter__(self):
        self.file.__enter__()
        return self

    def __exit__(self, *error):
        return self.file.__exit__(*error)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, content):
        if self.happens():
            self.file.write(content[: len(content) // 2])
            raise Killed
        return self.file.write(content)


@contextlib.contextmanager
def killed_at(moment):
    """Within, the file operation of that number is not done any more, or only half."""
    number = itertools.count()

    def happens():
        return next(number) == moment

    def until_then(function):
        def operation(*arguments, **options):
            if happens():
                raise Killed
            return function(*arguments, **options)

        return operation

    opened = Path.open
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", lambda *a, **k: HalfWritten(opened(*a, **k), happens))
        for owner, name in ((Path, "replace"), (Path, "unlink"), (os, "fsync")):
            patch.setattr(owner, name, until_then(getattr(owner, name)))
        yield


def test_a_kill_at_any_moment_of_saving_leaves_a_whole_checkpoint(tmp_path):
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    states = {}

    def advance(step):
        model(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
        states[step] = {k: v.clone() for k, v in model.state_dict().items()}

    def save(folder, step):
        save_checkpoint(folder, step, model, optimizer, {"step": step})

    outcomes = []
    for moment in itertools.count():
        folder = tmp_path / str(moment)
        for step in (1, 2):
            advance(step)
            save(folder, step)
        advance(3)
        try:
            with killed_at(moment):
                save(folder, 3)
        except Killed:
            found = load_checkpoint(folder)
            assert found.notes == {"step": found.step}
            fresh = torch.nn.Linear(3, 2)
            found.restore(fresh)
            assert same(fresh.state_dict(), states[found.step])
            outcomes.append(found.step)
        else:
            break
        save(folder, 3)
        save(folder, 4)
        names = [
            f"step-0000000{step}.{kind}" for step in (3, 4) for kind in ("json", "safetensors")
        ]
        assert sorted(file.name for file in folder.iterdir()) == names
    assert outcomes == sorted(outcomes)
    assert outcomes.count(2) >= 7  # two writes, three flushes, two renames before it is there
    assert outcomes.count(3) >= 3  # a flush and two deletions after that


def test_files_that_are_no_checkpoints_are_not_read(tmp_path):
    assert load_checkpoint(tmp_path) is None
    (tmp_path / "step-one.json").write_text("{}")
    assert load_checkpoint(tmp_path) is None
    (tmp_path / "step-00000001.json").write_text("[1]")
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(ValueError, match="none of"):
        load_checkpoint(tmp_path)


NOTES = {"lr": 0.1, "channels": [8, 16], "solver": "broyden", "nothing": None}


def small_checkpoint(folder, notes=NOTES):
    """Save one of a small model, and return its two files."""
    model = torch.nn.Linear(3, 2)
    save_checkpoint(folder, 7, model, torch.optim.SGD(model.parameters()), notes)
    return folder / "step-00000007.json", folder / "step-00000007.safetensors"


def contents(folder):
    """Return what is loaded, or None if that is refused."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".* is skipped")
            loaded = load_checkpoint(folder)
    except ValueError:
        return None
    return loaded.step, loaded.notes, {k: v.tolist() for k, v in loaded.tensors.items()}


def flipped(content):
    """Yield the content with one bit of each byte changed in turn."""
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1 << (position * 7919 % 8)
        yield bytes(changed)


@pytest.mark.parametrize("file", [0, 1], ids=["record", "tensors"])
def test_a_bit_that_is_flipped_is_found(tmp_path, file):
    path = small_checkpoint(tmp_path)[file]
    content, expected = path.read_bytes(), contents(tmp_path)
    assert expected[:2] == (7, NOTES)
    n_found = 0
    damaged = [*flipped(content), *(content[:length] for length in range(0, len(content), 7))]
    for changed in damaged:
        path.write_bytes(changed)
        found = contents(tmp_path)
        assert found is None or found == expected
        n_found += found is None
    assert n_found > 0.9 * len(damaged)


def test_notes_with_keys_that_are_numbers_come_back_as_json_has_them(tmp_path):
    small_checkpoint(tmp_path, {"by epoch": {2: 0.2, 10: 0.1}, "pair": (1, 2)})
    assert load_checkpoint(tmp_path).notes == {"by epoch": {"2": 0.2, "10": 0.1}, "pair": [1, 2]}


def test_a_record_that_is_nested_too_deeply(tmp_path):
    record, _ = small_checkpoint(tmp_path)
    for deep in ("[" * 100_000, '{"a":' * 100_000):
        record.write_text(deep)
        assert contents(tmp_path) is None
    with pytest.raises(ValueError, match="nested too deeply"):
        small_checkpoint(tmp_path, {"deep": nested(100_000)})


def nested(depth):
    deep = []
    for _ in range(depth):
        deep = [deep]
    return deep


def test_a_checkpoint_of_the_first_version_is_read_with_a_warning(tmp_path):
    """Of its notes there was no checksum."""
    record, tensors = small_checkpoint(tmp_path)
    expected = contents(tmp_path)
    digest = hashlib.sha256(tensors.read_bytes()).hexdigest()
    record.write_text(json.dumps({"step": 7, "sha256": digest, "notes": NOTES}))
    with pytest.warns(UserWarning, match="without a checksum of its notes"):
        assert contents(tmp_path) == expected


def test_a_checkpoint_cannot_run_code(tmp_path):
    """Its files are JSON and safetensors, and a pickle is refused though its checksum is right."""
    record, tensors = small_checkpoint(tmp_path)
    assert json.loads(record.read_text())["notes"] == NOTES
    assert {"model.weight", "model.bias"} <= load_file(tensors).keys()

    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "evil"),))

    for content in (pickle.dumps(Evil()), saved_by_torch(Evil())):
        tensors.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        record.write_text(json.dumps({"step": 7, "sha256": digest, "notes": NOTES}))
        with pytest.warns(UserWarning, match="without a checksum of its notes"):
            assert contents(tmp_path) is None
        assert not (tmp_path / "evil").exists()


def saved_by_torch(value):
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def test_a_checkpoint_of_a_later_version_is_passed_over(tmp_path):
    record, _ = small_checkpoint(tmp_path)
    record.write_text(json.dumps(json.loads(record.read_text()) | {"format_version": 3}))
    with (
        pytest.warns(UserWarning, match="its format is not .* of version 1 or 2"),
        pytest.raises(ValueError, match="none of the 1 checkpoints"),
    ):
        load_checkpoint(tmp_path)


def test_a_checkpoint_of_another_program_is_an_error_in_a_line(tmp_path, capsys):
    small_checkpoint(tmp_path / "checkpoints")
    data = ["--data", "sklearn:digits", "--limit", "320", "--device", "cpu"]
    assert main(["evaluate", "--output", str(tmp_path), *data]) == 2
    assert main(["train", "--output", str(tmp_path), *QUICK, "--resume"]) == 2
    err = capsys.readouterr().err
    assert err.count("is not of a training run") == err.count("\n") == 2


def test_nothing_but_damaged_checkpoints(tmp_path, capsys):
    trained(tmp_path)
    for file in (tmp_path / "checkpoints").glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:100])
    with (
        pytest.warns(UserWarning, match="damaged"),
        pytest.raises(ValueError, match="none of the 2 checkpoints"),
    ):
        load_checkpoint(tmp_path / "checkpoints")


def test_options_may_not_change_on_the_way(tmp_path, capsys):
    trained(tmp_path)
    arguments = ["train", "--output", str(tmp_path), *QUICK, "--resume", "--lr", "0.1"]
    assert main(arguments) == 2
    assert "other values of lr" in capsys.readouterr().err
    arguments = ["train", "--output", str(tmp_path), *QUICK, "--resume", "--config", "cifar10-tiny"]
    assert main(arguments) == 2
    assert "other values of channels" in capsys.readouterr().err
    assert main(["train", "--output", str(tmp_path), *QUICK]) == 2
    assert "holds another run" in capsys.readouterr().err


ONE_EPOCH = ["--limit", "128", "--epochs", "1", "--pretrain-steps", "0", "--log-every", "1"]


@pytest.mark.parametrize(
    "options",
    [
        ["--backward", "implicit"],
        ["--solver", "adjoint-broyden", "--opa-every", "1", "--memory", "3", "--tol", "1e-2"],
    ],
)
def test_a_run_with_options_of_its_solver_can_be_taken_up_and_made_longer(tmp_path, options):
    trained(tmp_path, *ONE_EPOCH, *options)
    longer = [*ONE_EPOCH, "--resume", *options, "--epochs"]
    trained(tmp_path, *longer, "1")
    trained(tmp_path, *longer, "2")
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(float(row["step"])) for row in rows] == [1, 2, 3, 4]
    assert float(rows[-1]["lr"]) > 0
    # However the gradient was had, the log says how far it is from the implicit one.
    assert all(float(row["backward_residual"]) >= 0 for row in rows)


def test_an_option_that_would_change_the_weights_is_told(tmp_path, capsys):
    trained(tmp_path, *ONE_EPOCH)
    for changed, name in (
        (["--refine", "2"], "refine"),
        (["--fallback", "norm-ratio"], "fallback"),
        (["--memory", "2"], "solver"),
        (["--backward-tol", "0.2"], "backward_tol"),
        (["--no-opa"], "opa"),
        (["--tol", "0.1"], "tol"),
    ):
        arguments = ["train", "--output", str(tmp_path), *QUICK, *ONE_EPOCH, "--resume", *changed]
        assert main(arguments) == 2
        assert f"made with other values of {name}" in capsys.readouterr().err


def test_a_run_cannot_be_made_shorter(tmp_path, capsys):
    trained(tmp_path, *ONE_EPOCH, "--epochs", "2")
    assert main(["train", "--output", str(tmp_path), *QUICK, *ONE_EPOCH, "--resume"]) == 2
    assert "is of step 4, but epochs=1 has 2 steps" in capsys.readouterr().err


def small_run(folder, **options):
    """Train for a step by the Python interface."""
    train, test = (part.first(16) for part in load_images("sklearn:digits"))
    config = dataclasses.replace(
        CONFIGS["small"], in_channels=1, pretrain_steps=0, epochs=1, batch_size=16
    )
    trainer = Trainer(MDEQ(config, **options), train, test, Recipe(tensorboard=False), folder)
    trainer.run()
    return trainer


def test_a_loaded_model_has_the_options_of_its_layer(tmp_path):
    options = {"solver": partial(broyden, memory=5), "refine": 1, "tol": 1e-2, "max_iter": 8}
    trainer = small_run(tmp_path, **options, eval_max_iter=9, state_dtype=torch.float64)
    model, _ = load_model(tmp_path)
    assert model.deq.described() == trainer.module.deq.described()
    assert model.deq.solver_name == "broyden(memory=5)"
    again, _ = load_model(tmp_path, tol=1e-3)
    assert again.deq.described()["tol"] == 1e-3


def test_a_solver_of_ones_own_has_to_be_passed_again(tmp_path):
    def own(f, z0, stopping):
        return broyden(f, z0, stopping)

    small_run(tmp_path, solver=own)
    with pytest.raises(ValueError, match=r"own': pass it as load_model\(folder, solver="):
        load_model(tmp_path)
    assert load_model(tmp_path, solver=own)[0].deq.solver_name.endswith("own")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch-size", "400"], "320 images to train on .* at least batch_size=400"),
        (["--limit", "0"], "number of images must be at least 1, got 0"),
        (["--limit", "-3"], "number of images must be at least 1, got -3"),
        (["--device", "abacus"], "device='abacus' cannot be used here"),
        (["--solver", "picard", "--memory", "3", "--backward", "phantom"], "--memory is of no use"),
        (["--memory", "0"], "memory must be at least 1"),
        (
            ["--backward", "shine", "--backward-steps", "3"],
            "--backward-steps is of no use to shine",
        ),
        (["--backward", "unrolled", "--damping", "0.2"], "--damping is of no use to unrolled"),
        (["--image-size", "8"], "no folder 'train' in 'sklearn:digits'"),
        (["--options", "nowhere.toml"], "nowhere.toml"),
        pytest.param(
            ["--device", "cuda"],
            "device='cuda' cannot be used here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here"),
        ),
    ],
)
def test_what_cannot_be_done_is_an_error_in_a_line(tmp_path, capsys, options, message):
    assert main(["train", "--output", str(tmp_path), *QUICK, *options]) == 2
    err = capsys.readouterr().err
    assert re.search(f"error: .*{message}", err)
    assert "Traceback" not in err


def test_evaluate_repeats_the_last_scores(tmp_path, capsys):
    """The checkpoint knows the model, its solver and how images were normalised."""
    trained(tmp_path, "--solver", "anderson", "--backward", "jacobian-free", "--dropout", "0.1")
    first = capsys.readouterr().out
    assert first.startswith("test_loss=")
    data = ["--data", "sklearn:digits", "--limit", "320", "--device", "cpu"]
    assert main(["evaluate", "--output", str(tmp_path), *data]) == 0
    assert capsys.readouterr().out == first
    assert main(["evaluate", "--output", str(tmp_path / "nowhere"), *data]) == 2
    assert "no checkpoint" in capsys.readouterr().err


def test_a_run_that_never_saved_starts_again(tmp_path):
    expected = trained(tmp_path / "whole")
    folder = tmp_path / "cut"
    folder.mkdir()
    (folder / "log.csv").write_text((tmp_path / "whole" / "log.csv").read_text()[:-7])
    assert main(["train", "--output", str(folder), *QUICK]) == 2
    assert same(trained(folder, "--resume"), expected)
    with (folder / "log.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2


def test_training_learns(tmp_path):
    train, test = load_images("sklearn:digits")
    config = dataclasses.replace(
        CONFIGS["small"], in_channels=1, epochs=3, pretrain_steps=30, lr=5e-3, max_iter=6
    )
    recipe = Recipe(augment=False, tensorboard=False)
    row = Trainer(MDEQ(config, backward="shine"), train, test, recipe, tmp_path).run()
    assert row["test_accuracy"] > 0.85


@pytest.mark.parametrize(
    "solver", [adjoint_broyden, partial(adjoint_broyden), partial(adjoint_broyden, opa_every=2)]
)
def test_outer_problem_awareness_does_not_hang_on_a_name(tmp_path, solver):
    train, test = load_images("sklearn:digits")
    config = dataclasses.replace(CONFIGS["small"], in_channels=1, pretrain_steps=0, max_iter=6)
    recipe = Recipe(augment=False, tensorboard=False)
    found = []
    for choice in ("adjoint-broyden", solver):
        torch.manual_seed(0)
        trainer = Trainer(MDEQ(config, solver=choice), train, test, recipe, tmp_path)
        trainer.module.deq.register_forward_hook(
            lambda layer, arguments, output: found.append(output[1].inverse_jacobian.rank)
        )
        trainer.train_step(torch.arange(8))
    aware = getattr(solver, "keywords", {}).get("opa_every", 5)
    assert found == [6 + 1, 6 + 6 // aware]  # a pair a step and one each time


def test_every_option_of_the_command_line(tmp_path):
    options = ["--solver", "adjoint-broyden", "--refine", "1", "--fallback", "residual"]
    options += ["--amp", "bf16", "--channels-last", "--jacobian-weight", "0.1", "--clip", "0"]
    options += ["--no-augment", "--limit", "64", "--batch-size", "32", "--log-every", "1"]
    options += ["--stop", "batch"]
    trained(tmp_path, *options)
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    assert float(rows[-1]["backward_residual"]) >= 0
    assert 0 <= float(rows[-1]["fell_back"]) <= 1


def test_tensorboard_files_are_written(tmp_path):
    arguments = [o for o in QUICK if o != "--no-tensorboard"]
    assert main(["train", "--output", str(tmp_path), *arguments]) == 0
    assert list((tmp_path / "tensorboard").glob("events*"))


PROCESS = """
import dataclasses, os, sys
from pathlib import Path
import torch
from torch import nn
from safetensors.torch import save_file
from hoag_shine.deq.mdeq import CONFIGS, MDEQ
from hoag_shine.deq.training import Recipe, Trainer, load_images
from hoag_shine.deq.training.data import shuffled_batches

folder = Path(sys.argv[1])
world = int(os.environ.get("WORLD_SIZE", "1"))
if world > 1:
    torch.distributed.init_process_group("gloo")
train, test = load_images("sklearn:digits")
config = dataclasses.replace(CONFIGS["small"], in_channels=1, pretrain_steps=0, max_iter=5)
recipe = Recipe(augment=False, tensorboard=False, clip=0.0)

def gradients(backward):
    torch.manual_seed(0)
    trainer = Trainer(MDEQ(config, backward=backward).double(), train, test, recipe, folder)
    trainer.normalize = lambda pixels: pixels.double() / 255
    train_mode = trainer.parallel.train

    def train_all_but_batch_norms():  # they see only their process' share; all else must agree
        train_mode()
        for module in trainer.module.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()

    trainer.parallel.train = train_all_but_batch_norms
    trainer.train_step(shuffled_batches(len(train), 16, 0, 0, trainer.rank, world)[0])
    named = trainer.module.named_parameters()
    return {f"{backward} {name}": p.grad.contiguous() for name, p in named}

found = gradients("shine") | gradients("implicit")
if int(os.environ.get("RANK", "0")) == 0:
    save_file(found, folder / f"{world}.safetensors")
if world > 1:
    torch.distributed.destroy_process_group()
"""


def test_two_processes_have_the_gradients_of_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, "-c", PROCESS, str(tmp_path)]
    environments = [{"OMP_NUM_THREADS": "1"}]
    environments += [{**common, "WORLD_SIZE": "2", "RANK": rank} for rank in ("0", "1")]
    processes = [subprocess.Popen(command, env=os.environ | e) for e in environments]
    assert [process.wait(timeout=200) for process in processes] == [0, 0, 0]
    one, two = (load_file(tmp_path / f"{n}.safetensors") for n in (1, 2))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-6, atol=1e-10)


def test_every_image_once_an_epoch_and_the_shares_add_up():
    whole = shuffled_batches(103, 10, epoch=3, seed=5)
    assert len(whole) == 10
    assert len(set(torch.cat(whole).tolist())) == 100
    shares = [shuffled_batches(103, 10, 3, 5, rank, 2) for rank in range(2)]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert torch.equal(batch, torch.cat(parts))
    assert not torch.equal(whole[0], shuffled_batches(103, 10, 4, 5)[0])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"amp": "fp8"}, "amp must be"),
        ({"clip": -1.0}, "clip must be at least 0"),
        ({"log_every": 0}, "log_every must be at least 1"),
    ],
)
def test_bad_recipes(option, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**option)


@pytest.mark.parametrize(
    ("arguments", "message"), [((103, 9, 0, 0, 0, 2), "divisible"), ((5, 10, 0, 0), "fewer than")]
)
def test_bad_batches(arguments, message):
    with pytest.raises(ValueError, match=message):
        shuffled_batches(*arguments)


def test_augmentation_shifts_and_mirrors():
    pixels = torch.arange(1, 65, dtype=torch.uint8).reshape(1, 1, 8, 8).expand(64, 1, 8, 8)
    shifted = augment(pixels, flip=False)
    padded = torch.nn.functional.pad(pixels[0, 0], (1, 1, 1, 1))
    possible = [padded[i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
    for image in shifted[:, 0]:
        assert any(torch.equal(image, p) for p in possible)
    assert len({tuple(image.flatten().tolist()) for image in shifted}) > 5
    possible += [p.flip(1) for p in possible]
    mirrored = augment(pixels, flip=True)[:, 0]
    assert all(any(torch.equal(image, p) for p in possible) for image in mirrored)


def test_channel_statistics():
    pixels = torch.randint(0, 256, (10, 3, 5, 4), dtype=torch.uint8)
    mean, std = channel_statistics(pixels)
    values = pixels.double().transpose(0, 1).flatten(1) / 255
    torch.testing.assert_close(mean.ravel().double(), values.mean(1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        std.ravel().double(), values.std(1, correction=0), rtol=1e-6, atol=1e-6
    )


def random_images(n, size=32, channels=3):
    rng = np.random.default_rng(n)
    return rng.integers(0, 256, (n, size, size, channels), dtype=np.uint8), np.arange(n) % 2


def test_npz(tmp_path):
    pixels, labels = random_images(6, size=28, channels=1)
    for shape in ((6, 28, 28), (6, 784)):
        flat = pixels.reshape(shape)
        np.savez(
            tmp_path / "m.npz", x_train=flat, y_train=labels, x_test=flat[:2], y_test=labels[:2]
        )
        train, test = load_images(str(tmp_path / "m.npz"))
        assert train.pixels.shape == (6, 1, 28, 28)
        assert np.array_equal(train.pixels[:, 0], pixels[..., 0])
        assert len(test) == 2


def test_plain_folder(tmp_path):
    pixels, labels = random_images(6)
    for part in ("train", "test"):
        for i, (image, label) in enumerate(zip(pixels, labels, strict=True)):
            folder = tmp_path / part / f"class{label}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{i}.png")
    train, test = load_images(str(tmp_path))
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert np.array_equal(test.pixels[0].permute(1, 2, 0), pixels[0])
    assert np.array_equal(train.pixels[3].permute(1, 2, 0), pixels[1])


def test_sheets(tmp_path):
    pixels, labels = random_images(1000)
    sheet = pixels.reshape(25, 40, 32, 32, 3).transpose(0, 2, 1, 3, 4).reshape(800, 1280, 3)
    for part in ("train", "test"):
        Image.fromarray(sheet).save(tmp_path / f"{part}_00.webp", lossless=True)
        np.save(tmp_path / f"{part}_labels.npy", labels)
    train, _ = load_images(str(tmp_path))
    assert np.array_equal(train.pixels.permute(0, 2, 3, 1), pixels)
    assert np.array_equal(train.labels, labels)


@pytest.mark.skipif(
    data_home() is None or not (data_home() / "images").is_dir(),
    reason="no data folder (set HOAG_SHINE_DATA)",
)
@pytest.mark.parametrize(
    ("name", "sizes", "mean", "std"),
    [
        ("mnist.npz", (60_000, 10_000), [0.1307], [0.3081]),
        ("cifar10", (50_000, 10_000), [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
    ],
)
def test_real_images(name, sizes, mean, std):
    """Their statistics are the well-known ones."""
    train, test = load_images(str(data_home() / "images" / name))
    assert (len(train), len(test)) == sizes
    found = channel_statistics(train.pixels)
    for statistic, known in zip(found, (mean, std), strict=True):
        torch.testing.assert_close(statistic.ravel(), torch.tensor(known), rtol=0, atol=6e-5)
    if name == "cifar10":
        assert torch.bincount(test.labels).tolist() == [1000] * 10


@pytest.mark.parametrize("protocol", [2, 4])
def test_torchvision_folder(tmp_path, protocol):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels, labels = random_images(4)
    content = {b"data": pixels.transpose(0, 3, 1, 2).reshape(4, -1), b"labels": labels.tolist()}
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        (folder / name).write_bytes(pickle.dumps(content, protocol))
    for source in (folder, tmp_path):
        train, test = load_images(str(source))
        assert len(train) == 20
        assert np.array_equal(test.pixels.permute(0, 2, 3, 1), pixels)


def test_a_pickle_that_does_more_than_hold_arrays_is_refused(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()

    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "evil"),))

    (folder / "data_batch_1").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match="which is not an array"):
        load_images(str(folder))
    assert not (tmp_path / "evil").exists()


def test_bad_sources(tmp_path):
    with pytest.raises(FileNotFoundError, match="no images"):
        load_images(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="holds neither"):
        load_images(str(tmp_path))
    np.savez(tmp_path / "m.npz", x=np.zeros(3))
    with pytest.raises(ValueError, match="must hold x_train"):
        load_images(str(tmp_path / "m.npz"))


@pytest.mark.parametrize("kind", ["npz", "cifar", "png", "sheet"])
def test_damaged_images_are_an_error_that_names_the_file(tmp_path, kind):
    """Or other images, where the format has no checksum."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (4, 6, 6), dtype=np.uint8)
    labels = np.arange(4)
    if kind == "npz":
        path = source = tmp_path / "own.npz"
        np.savez_compressed(path, X_train=pixels, y_train=labels, X_test=pixels, y_test=labels)
    elif kind == "cifar":
        source = tmp_path / "cifar-10-batches-py"
        source.mkdir()
        batch = pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 1]}, 2)
        for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
            (source / name).write_bytes(batch)
        path = source / "data_batch_3"
    elif kind == "png":
        source = tmp_path
        for part in ("train", "test"):
            (source / part / "one").mkdir(parents=True)
            Image.fromarray(pixels[0]).save(source / part / "one" / "0.png")
        path = source / "train" / "one" / "0.png"
    else:
        source = tmp_path
        for part in ("train", "test"):
            Image.new("RGB", (40 * 32, 25 * 32)).save(source / f"{part}_0.webp", lossless=True)
            np.save(source / f"{part}_labels.npy", np.zeros(1000, int))
        path = source / "train_0.webp"
    load_images(str(source))
    content = path.read_bytes()
    step = max(len(content) // 300, 1)
    damaged = [*itertools.islice(flipped(content), 0, None, step), content[: len(content) // 2]]
    for changed in damaged:
        path.write_bytes(changed)
        try:
            with warnings.catch_warnings(action="ignore"):
                train, _ = load_images(str(source))
        except ValueError as error:
            assert path.name in str(error) or "image" in str(error)  # noqa: PT017
        else:
            assert train.pixels.dtype == torch.uint8


def test_options_from_a_file_and_the_best_checkpoint(tmp_path, capsys):
    options = tmp_path / "options.toml"
    options.write_text('lr = 0.5\nbackward = "phantom"\nbackward-steps = 3\nkeep-best = true\n')
    run = tmp_path / "run"
    trained(run, *ONE_EPOCH, "--options", str(options), "--lr", "0.01", "--damping", "0.7")
    notes = load_checkpoint(run / "checkpoints").notes
    assert notes["config"]["lr"] == 0.01
    expected = {"name": "phantom", "options": {"damping": 0.7, "steps": 3}}
    assert notes["layer"]["backward"] == expected
    assert len(list((run / "best").glob("*.json"))) == 1
    first = capsys.readouterr().out
    arguments = ["evaluate", *QUICK[:2], "--output", str(run), "--device", "cpu", "--best"]
    assert main([*arguments, "--limit", "128", "--eval-batch-size", "50"]) == 0
    for found, wanted in zip(capsys.readouterr().out.split(), first.split(), strict=True):
        name, value = wanted.split("=")
        assert found.startswith(f"{name}=")
        assert float(found.split("=")[1]) == pytest.approx(float(value), abs=2e-4)


def test_bad_files_of_options(tmp_path, capsys):
    file = tmp_path / "options.toml"
    for text, message in (("lr = ", "is not a TOML file"), ("lr = [1, 2]", "lr must be a text")):
        file.write_text(text)
        assert main(["train", *QUICK, "--options", str(file)]) == 2
        assert message in capsys.readouterr().err


def test_a_log_of_fewer_columns_is_kept(tmp_path):
    trained(tmp_path, *ONE_EPOCH)
    log = tmp_path / "log.csv"
    lines = [line.rpartition(",")[0] for line in log.read_text().splitlines()]
    log.write_text("\n".join(lines) + "\n")
    trained(tmp_path, *ONE_EPOCH, "--resume", "--epochs", "2")
    with log.open() as file:
        rows = list(csv.DictReader(file))
    assert [int(float(row["step"])) for row in rows] == [1, 2, 3, 4]
    assert rows[1]["test_accuracy"]
    assert 0 <= float(rows[3]["test_accuracy"]) <= float(rows[3]["test_top5"]) <= 1
