"""The gallery's examples of layers run, with less training."""

import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="no examples beside the tests")


def test_an_image_as_an_implicit_layer(tmp_path, capsys):
    pytest.importorskip("matplotlib").use("agg")
    text = (FOLDER / "plot_implicit_representation.py").read_text()
    assert text.count("range(90)") == 1
    shorter = tmp_path / "example.py"
    shorter.write_text(text.replace("range(90)", "range(30)"))
    found = runpy.run_path(str(shorter))
    assert found["info"].backward.residual.max() <= 0.1
    assert found["error"] < found["colours"].var(0).mean()
    assert "error of unseen pixels" in capsys.readouterr().out
