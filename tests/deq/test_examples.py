"""The gallery's examples of layers run, with less training."""

import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="no examples beside the tests")


@pytest.fixture
def run(tmp_path, capsys):
    """Run an example with a smaller number of steps; return its names and what it prints."""
    pytest.importorskip("matplotlib").use("agg")

    def run(name, steps, fewer):
        text = (FOLDER / f"{name}.py").read_text()
        assert text.count(steps) == 1
        shorter = tmp_path / "example.py"
        shorter.write_text(text.replace(steps, fewer))
        capsys.readouterr()
        return runpy.run_path(str(shorter)), capsys.readouterr().out

    return run


def test_an_image_as_an_implicit_layer(run):
    found, text = run("plot_implicit_representation", "range(90)", "range(30)")
    assert found["info"].backward.residual.max() <= 0.1
    assert found["error"] < found["colours"].var(0).mean()
    assert "error of unseen pixels" in text


def test_a_graph_network(run):
    found, _ = run("plot_graph_layer", "range(60)", "range(20)")
    assert found["info"].n_steps.shape == (1,)  # the whole graph is one problem
    assert found["info"].backward.residual.max() <= 0.1
    assert found["accuracy"] > found["alone"]


def test_a_transformer_of_one_layer(run):
    found, _ = run("plot_sequence_layer", "range(150)", "range(40)")
    assert found["info"].backward.residual.max() <= 0.1
    assert found["error"] < found["guess"]


def test_an_optimisation_layer(run):
    found, text = run("plot_optimisation_layer", "grid = np.linspace(-4, 6, 11)", "grid = [0.0]")
    assert found["log_alpha"].grad.item() == pytest.approx(found["hypergradient"], rel=1e-4)
    assert found["info"].converged.all()
    assert "derivative of the layer" in text
