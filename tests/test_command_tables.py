"""The command line on what people have: tables, labels of all kinds, files that are none."""

import gzip
import io
import re
import subprocess
import sys

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.datasets import dump_svmlight_file, load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import OneHotEncoder

from hoag_shine import ShineCV
from hoag_shine.cli import main
from hoag_shine.persistence import load_model

FAST = ["--folds", "2", "--tol", "0.3"]


@pytest.fixture
def model(tmp_path):
    return tmp_path / "model.safetensors"


@pytest.fixture
def flowers(tmp_path):
    """Iris as a table: three numbers, a word instead of the fourth, and the kind as text."""
    pandas = pytest.importorskip("pandas")
    bunch = load_iris(as_frame=True)
    frame = bunch.data.set_axis(["a", "b", "c", "d"], axis=1)
    frame["d"] = pandas.cut(frame["d"], 3, labels=["low", "mid", "high"]).astype(str)
    frame["kind"] = bunch.target_names[bunch.target]
    frame["plot"] = np.arange(len(frame)) % 7
    frame.to_csv(tmp_path / "flowers.csv", index=False)
    return tmp_path / "flowers.csv"


# --- labels decide -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "chosen"),
    [
        ("sklearn:iris", r"LogisticRegression \(3 distinct labels are taken for classes"),
        ("sklearn:wine", r"LogisticRegression \(3 distinct labels are taken for classes"),
        ("sklearn:diabetes", r"Ridge \(214 distinct labels are taken for numbers"),
    ],
)
def test_labels_decide_and_it_is_said(data, chosen, capsys):
    assert main(["tune", data, "--standardize", *FAST]) == 0
    err = capsys.readouterr().err
    assert re.match(f"hoag-shine: {chosen}; --estimator overrides", err)


@pytest.mark.parametrize("name", ["logistic", "svm", "ridge-classifier", "ridge", "huber"])
def test_every_estimator_is_tuned_and_saved(name, model):
    arguments = ["tune", "sklearn:wine", "--standardize", "--estimator", name, "--quiet", *FAST]
    assert main([*arguments, "--save", str(model)]) == 0
    fitted, _ = load_model(model)
    kind = "".join(word.capitalize() for word in name.split("-"))
    assert type(fitted).__name__.startswith(
        {"Logistic": "Logi", "Svm": "LinearSVC"}.get(kind, kind)
    )


@pytest.mark.parametrize("name", ["poisson", "gamma", "tweedie"])
def test_positive_targets_have_models_of_their_own(name, model, capsys):
    power = ["--power", "1.5"] if name == "tweedie" else []
    arguments = ["tune", "sklearn:diabetes", "--estimator", name, *power, "--quiet", *FAST]
    assert main([*arguments, "--bounds", "1e-4", "1e4", "--save", str(model)]) == 0
    assert type(load_model(model)[0]).__name__ == f"{name.capitalize()}Regressor"


def test_scores_and_penalties_of_columns_are_reported(capsys):
    arguments = ["tune", "sklearn:wine", "--standardize", "--penalty", "feature", *FAST]
    assert main([*arguments, "--scoring", "accuracy", "--scoring", "roc_auc_ovr"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"held-out accuracy +│ (0\.9|1 )", out)
    assert re.search(r"held-out roc_auc_ovr +│ (0\.9|1 )", out)
    assert re.search(r"C +│ 1 -> [\d.e-]+ to [\d.e+]+ \(13 penalties\)", out)


# --- tables --------------------------------------------------------------------------------------


def test_a_table_is_tuned_and_predicted(flowers, model, capsys):
    pandas = pytest.importorskip("pandas")
    arguments = ["tune", str(flowers), "--target", "kind", "--groups", "plot"]
    assert main([*arguments, "--save", str(model), "--quiet"]) == 0
    fitted, _ = load_model(model)
    assert fitted.classes_.tolist() == ["setosa", "versicolor", "virginica"]
    frame = pandas.read_csv(flowers)
    own = ColumnTransformer(
        [("numbers", "passthrough", ["a", "b", "c"]), ("words", OneHotEncoder(), ["d"])]
    ).fit_transform(frame)
    reference = LogisticRegression(C=fitted.C, max_iter=10_000, tol=1e-8).fit(own, frame["kind"])
    np.testing.assert_allclose(fitted.coef_, reference.coef_, atol=2e-2)
    capsys.readouterr()
    new = frame.drop(columns=["plot"]).sample(frac=1.0, axis=1, random_state=0)
    new.loc[0, "d"], new.loc[1, "a"] = "unheard of", np.nan
    new.to_csv(flowers.with_name("new.csv"), index=False)
    assert main(["predict", str(model), str(flowers.with_name("new.csv"))]) == 0
    out, err = capsys.readouterr()
    assert out.split() == fitted.predict(own).tolist()
    assert "accuracy" in err
    new.drop(columns="kind").to_csv(flowers.with_name("bare.csv"), index=False)
    assert main(["predict", str(model), str(flowers.with_name("bare.csv")), "--proba"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("# setosa versicolor virginica\n")
    assert err == ""


def test_parquet_is_csv_with_types(flowers, model):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.read_csv(flowers)
    frame["d"], frame["a"] = frame["d"].astype("category"), frame["a"].astype("Float64")
    frame.to_parquet(flowers.with_suffix(".parquet"))
    coefs = []
    for file in (flowers, flowers.with_suffix(".parquet")):
        assert main(["tune", str(file), "--target", "kind", "--save", str(model), "--quiet"]) == 0
        coefs.append(load_model(model)[0].coef_)
    np.testing.assert_array_equal(*coefs)


def test_polars_reads_what_pandas_reads(flowers, monkeypatch):
    pytest.importorskip("polars")
    from hoag_shine.cli import tables

    by_pandas = tables.read_table(flowers)
    monkeypatch.setattr(tables, "find_spec", lambda name: name == "polars")
    by_polars = tables.read_table(flowers)
    assert list(by_polars) == list(by_pandas)
    for name, column in by_pandas.items():
        np.testing.assert_array_equal(by_polars[name], column)
    monkeypatch.setattr(tables, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="install one of both"):
        tables.read_table(flowers)


def piped(arguments, text, monkeypatch):
    """Run a command that reads its standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    return main(arguments)


def test_standard_input_is_a_file_or_a_table(flowers, tmp_path, monkeypatch, capsys):
    X, y = load_iris(return_X_y=True)
    dump_svmlight_file(X, y, str(tmp_path / "iris.svm"))
    for file, options in ((tmp_path / "iris.svm", []), (flowers, ["--target", "kind"])):
        assert main(["tune", str(file), *options, "--quiet", *FAST]) == 0
        assert piped(["tune", "-", *options, "--quiet", *FAST], file.read_bytes(), monkeypatch) == 0
        by_name, by_pipe = capsys.readouterr().out.splitlines()
        assert by_pipe == by_name


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        ("a,b\n1,2\n", [], "needs --target, the column to predict; it has a, b"),
        ("a,b\n1,2\n", ["--target", "c"], "--target 'c' is none of the columns: a, b"),
        ("a,b\n", ["--target", "a"], "has no rows"),
        ("", ["--target", "a"], "is not a table"),
        ("a,b\n1,2\n3,\n", ["--target", "b"], "target has 1 rows without a value"),
        ("b\n1\n2\n", ["--target", "b"], "no columns beside the target"),
        ("a,b\n1,x\n2,x\n", ["--target", "b"], "All labels of DATA are 'x'"),
        ("a,b\n1,x\n2,y\n", ["--target", "b", "--estimator", "ridge"], "needs numbers as labels"),
    ],
)
def test_tables_that_cannot_be_used(table, options, message, tmp_path, capsys):
    pytest.importorskip("pandas")
    (tmp_path / "t.csv").write_text(table)
    assert main(["tune", str(tmp_path / "t.csv"), *options]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


# --- files that are none -------------------------------------------------------------------------

ROWS = b"1 1:0.5 2:1\n-1 1:1 3:2\n" * 10


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("huge.svm", b"1 1:1\n-1 99999999999:1\n"),
        ("large.svm", b"1 1:1\n-1 2000000000:1\n"),
        ("larger.svm", b"1 1:1\n-1 4000000000:1\n"),
        ("empty.svm", b""),
        ("binary.svm", bytes(range(256)) * 20),
        ("table.svm", b"a,b\n1,2\n"),
        # Without the time: what is collected must be the same in every process.
        ("cut.svm.gz", gzip.compress(ROWS * 100, mtime=0)[:-20]),
        ("plain.svm.gz", ROWS),
        ("one.svm", b"1 1:0.5\n" * 10),
        ("cut.parquet", b"PAR1 and no more"),
    ],
)
@pytest.mark.parametrize("command", ["tune", "predict"])
def test_no_file_ends_in_a_traceback(name, content, command, tmp_path, model, capsys):
    (tmp_path / name).write_bytes(content)
    arguments = ["tune", str(tmp_path / name), "--target", "a"]
    if command == "predict":
        (tmp_path / "good.svm").write_bytes(ROWS)
        assert (
            main(["tune", str(tmp_path / "good.svm"), "--quiet", "--save", str(model), *FAST]) == 0
        )
        arguments = ["predict", str(model), str(tmp_path / name)]
    elif not name.endswith("parquet"):
        arguments = arguments[:2]
    capsys.readouterr()
    code = main(arguments)
    err = capsys.readouterr().err
    assert (code, err.count("\n")) == ((0 if name == "one.svm" and command == "predict" else 2), 1)
    assert name == "one.svm" or name in err


def test_a_byte_order_mark_is_no_label(tmp_path, capsys):
    for name, start in (("plain.svm", b""), ("marked.svm", b"\xef\xbb\xbf")):
        (tmp_path / name).write_bytes(start + ROWS)
        assert main(["tune", str(tmp_path / name), "--quiet", *FAST]) == 0
    plain, marked = capsys.readouterr().out.splitlines()
    assert plain == marked


@pytest.mark.parametrize("option", ["--save", "--plot"])
def test_targets_are_looked_at_before_the_search(option, tmp_path, capsys):
    folder = tmp_path / "folder.png"
    folder.mkdir()
    assert main(["tune", "nowhere.svm", option, str(folder)]) == 2
    assert f"{option} {str(folder)!r} is a folder" in capsys.readouterr().err


def test_groups_of_a_file(tmp_path, capsys):
    (tmp_path / "rows.svm").write_bytes(ROWS)
    (tmp_path / "groups.txt").write_text("".join(f"{i // 4}\n" for i in range(20)))
    arguments = ["tune", str(tmp_path / "rows.svm"), "--quiet", "--groups"]
    assert main([*arguments, str(tmp_path / "groups.txt"), *FAST]) == 0
    assert main([*arguments, "nowhere"]) == 2
    assert "neither a column of a table nor a file" in capsys.readouterr().err


@pytest.mark.parametrize("width", [60, 120])
def test_lines_fit_the_terminal(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["tune", "sklearn:iris", *FAST]) == 0
    out, err = capsys.readouterr()
    lines = err.splitlines()[1:]
    assert max(map(len, [*out.splitlines(), *lines])) <= width
    assert ("|hypergradient|" in err) == (width == 120)
    assert len({len(line) for line in lines}) == 1


def test_an_interrupt_while_it_is_imported(monkeypatch, capsys):
    class Interrupting:
        def find_spec(self, name, path=None, target=None):
            if name == "hoag_shine.cli.commands":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "hoag_shine.cli.commands", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    assert main(["tune", "sklearn:iris"]) == 130
    assert capsys.readouterr().err == "hoag-shine: interrupted\n"


# What is imported loses a KeyboardInterrupt, as callbacks of the garbage collector do.
LOST = """
import os, signal, sys, time

class Losing:
    def find_spec(self, name, path=None, target=None):
        if name == "hoag_shine.cli.commands":
            try:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(1)
            except KeyboardInterrupt:
                pass

sys.meta_path.insert(0, Losing())
from hoag_shine.cli import main
sys.exit(main(["tune", "sklearn:iris"]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is another signal there")
def test_an_interrupt_is_not_lost_while_it_is_imported():
    ended = subprocess.run(
        [sys.executable, "-c", LOST], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (130, "hoag-shine: interrupted\n")
    assert ended.stdout == ""


def test_a_score_that_fails_is_told_in_a_line(capsys):
    assert main(["tune", "sklearn:diabetes", "--scoring", "roc_auc", *FAST]) == 0
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    assert re.search(r"^hoag-shine: warning: Scoring failed.*AttributeError.*$", err, re.MULTILINE)
    assert re.search("held-out roc_auc .*nan", out)


@pytest.mark.parametrize(("option", "value"), [("--folds", "1"), ("--seed", "-1")])
def test_what_is_wrong_is_named_by_its_option(option, value, capsys):
    assert main(["tune", "sklearn:iris", option, value]) == 2
    assert f"error: {option} must be" in capsys.readouterr().err


def test_help_has_defaults_and_examples(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["tune", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for part in (
        "examples:",
        "--groups",
        "--scoring",
        "--max-time",
    ):
        assert part in text
    defaults = ShineCV(LogisticRegression()).get_params()
    for name in ("tol", "max_iter", "hypergradient"):
        assert f"(default: {defaults[name]})" in text


@pytest.mark.parametrize("command", [[], ["tune"], ["predict"]])
def test_help_fits_a_narrow_terminal(command, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--help"])
    # The first sentences are wrapped by the terminal.
    options = capsys.readouterr().out.partition("positional arguments")[2]
    assert max(map(len, options.splitlines())) <= 60


def test_the_other_command_has_a_version(capsys):
    pytest.importorskip("torch")
    from hoag_shine import __version__
    from hoag_shine.deq.training.cli import main as deq

    with pytest.raises(SystemExit, match="0"):
        deq(["--version"])
    assert capsys.readouterr().out == f"hoag-shine-deq {__version__}\n"
