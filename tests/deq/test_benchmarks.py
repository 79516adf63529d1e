"""The programs of benchmarks/deq run, at sizes at which they measure nothing."""

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hoag_shine.deq.training.cli import main

FOLDER = Path(__file__).parents[2] / "benchmarks" / "deq"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="no benchmarks beside the tests")


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a program and return the lines that it prints."""
    monkeypatch.setitem(sys.modules, "torchdeq", None)

    def run(name, *arguments):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(FOLDER / name), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    return run


def test_costs(run):
    tiny = ["--config", "small", "--batch", "2", "--size", "8", "--steps", "2", "--rounds", "1"]
    lines = run("costs.py", *tiny, "--amp", "no", "bf16")
    calls = {line[:28].strip(): line[28:].split()[2] for line in lines if "backward" in line}
    assert calls["backward shine"] == "0"
    assert calls["backward shine, refine 5"] == "7"
    assert sum(line.startswith("broyden") for line in lines) == 2


def test_speed(run, tmp_path):
    tiny = ["--layers", "mlp", "--steps", "2", "3", "--rounds", "1", "--batch", "2"]
    lines = run("speed.py", *tiny, "--output", str(tmp_path / "speed.csv"))
    assert lines[0] == "torchdeq is not installed: our times alone"
    rows = [line for line in lines if line.startswith(("broyden", "anderson", "picard"))]
    assert len(rows) == 16 + 3
    assert all(float(time) > 0 for row in rows[:16] for time in row[34:].split())
    assert all(share.endswith("%") for row in rows[16:] for share in row[34:].split())
    assert len((tmp_path / "speed.csv").read_text().splitlines()) == 1 + 2 * 16


def test_memory(run):
    tiny = ["--config", "small", "--batch", "1", "--one", "broyden, memory 5, shine", "2"]
    assert float(run("memory.py", *tiny)[0]) >= 0


def test_layers(run):
    tasks = ["--tasks", "perceptron", "characters", "graph"]
    tiny = [*tasks, "--seeds", "1", "--steps", "4", "--batch", "8"]
    methods = ["implicit", "auto, 0.1", "shine, OPA every step"]
    lines = run("layers.py", *tiny, "--batches", "1", "--methods", *methods)
    rows = [line for line in lines if line.startswith(tuple(methods))]
    assert len(rows) == 9
    for row in rows:
        cells = row[26:].replace("[", "").replace("]", "").replace(",", "").split()
        cosine, lower, upper, distance, products, relative, loss, _, seconds = map(float, cells)
        assert 0.9 < lower <= upper
        assert cosine == pytest.approx((lower + upper) / 2, abs=0.1)
        assert distance < 0.2
        assert (products == 0) == row.startswith("shine")
        assert relative > 0
        assert seconds > 0
        assert 0 < loss < 5
    assert all(float(row[26:].split()[0]) > 0.999 for row in rows if row.startswith("implicit"))


def test_accuracy_and_quality(run, tmp_path):
    data = ["--data", "sklearn:digits"]
    methods = ["--methods", "implicit", "shine", "--seeds", "2", "--epochs", "1"]
    lines = run("accuracy.py", *data, *methods, "--limit", "128", "--pretrain-steps", "0")
    assert [line.split()[0] for line in lines[2:]] == ["implicit", "shine"]
    assert 0 <= float(lines[2].split()[1]) <= 1

    train = ["train", "--output", str(tmp_path), *data, "--limit", "64", "--epochs", "1"]
    assert main([*train, "--no-tensorboard", "--device", "cpu"]) == 0
    samples = ["--samples", "4", "--max-iter", "5"]
    lines = run("quality.py", "--run", str(tmp_path), str(tmp_path), *data, *samples)
    assert "2 run(s)" in lines[0]
    assert sum("spectral radius" in line for line in lines) == 4
    cosines = [float(line[26:34]) for line in lines if line.startswith("shine, refine 5")]
    assert len(cosines) == 4
    assert all(0 < cosine <= 1 for cosine in cosines)


@pytest.mark.skipif(shutil.which("timeout") is None, reason="needs the program timeout")
def test_the_script_for_a_gpu(tmp_path):
    size = {"DEVICE": "cpu", "CONFIGS": "small", "BATCH": "2", "STEPS": "2", "ROUNDS": "1"}
    size |= {"TRAINED": "digits", "EPOCHS": "1", "LIMIT": "64", "TEST_LIMIT": "8"}
    command = ["sh", str(FOLDER / "gpu.sh"), "sklearn:digits", str(tmp_path)]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | size | {"PATH": path}
    subprocess.run(command, check=True, env=environment, capture_output=True)
    assert "bf16" in (tmp_path / "costs.txt").read_text()
    assert len((tmp_path / "accuracy.csv").read_text().splitlines()) == 1 + 3
    logs = sorted(tmp_path.glob("*/log.csv"))
    assert len(logs) == 3
    assert all("seconds" in log.read_text().splitlines()[0] for log in logs)


def test_the_experiments_of_the_paper(run, tmp_path):
    tiny = ["--quick", "--limit", "64", "--test-limit", "4", "--epochs", "1", "--seeds", "1"]
    tiny += [
        "--config",
        "small",
        "--pretrain-steps",
        "0",
        "--max-iter",
        "4",
        "--batches",
        "1",
        "--device",
        "cpu",
        "--output",
        str(tmp_path),
    ]

    def rows(name):
        return (tmp_path / f"{name}.csv").read_text().splitlines()[1:]

    lines = run("paper.py", "accuracy", *tiny, "--methods", "full", "shine")
    assert [line.split()[0] for line in lines[1:]] == ["full", "shine"]
    before = rows("accuracy")
    lines = run("paper.py", "accuracy", *tiny, "--methods", "full", "jacobian-free")
    assert rows("accuracy")[:2] == before  # what was there is not done again
    assert [row.split(",")[0] for row in rows("accuracy")] == ["full", "shine", "jacobian-free"]

    run("paper.py", "inversion", *tiny)
    assert len(rows("inversion")) == 4 * 3 * 2 * 2
    cosines = [float(row.split(",")[-2]) for row in rows("inversion")]
    assert all(-1 <= cosine <= 1.001 for cosine in cosines)

    run("paper.py", "contractivity", *tiny, "--methods", "shine")
    assert [row.split(",")[2] for row in rows("contractivity")] == ["0", "1"]
    run("paper.py", "fallback", *tiny)
    assert all(0 <= float(row.split(",")[-1]) <= 1 for row in rows("fallback"))
    experiments = ("accuracy", "contractivity", "fallback", "inversion")
    assert sorted(file.stem for file in tmp_path.glob("*.png")) == list(experiments)
