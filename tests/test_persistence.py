"""Models in files."""

import json
import re
import sys
from dataclasses import dataclass

import numpy as np
import pytest
from helpers import in_a_process
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Lasso, LogisticRegression, Ridge, RidgeClassifier
from sklearn.preprocessing import scale
from supported import CASES, several_labels

from hoag_shine import L2, GeneralizedLinear, LogisticLoss, Loss, SquaredLoss, TweedieLoss
from hoag_shine.cli import main
from hoag_shine.persistence import load_model, save_model

LABELS = {
    "int": [0, 1],
    "float": [-1.0, 1.0],
    "bool": [False, True],
    "str": ["benign", "malign"],
    "object": np.array(["gut", "übel"], dtype=object),
}


@pytest.fixture(scope="module")
def breast_cancer():
    X, y = load_breast_cancer(return_X_y=True)
    return scale(X), y


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_classifier_predicts_as_before(path, breast_cancer, labels):
    X, y = breast_cancer
    fitted = LogisticRegression(C=0.3).fit(X, np.asarray(labels)[y])
    save_model(fitted, path)
    loaded, _ = load_model(path)
    np.testing.assert_array_equal(loaded.predict(X), fitted.predict(X))
    np.testing.assert_array_equal(loaded.predict_proba(X), fitted.predict_proba(X))
    assert loaded.C == 0.3


def test_multiclass_with_coefficients_in_fortran_order(path):
    X, y = load_iris(return_X_y=True)
    fitted = LogisticRegression(max_iter=1000).fit(X, y)
    fitted.coef_ = np.asfortranarray(fitted.coef_)
    save_model(fitted, path)
    np.testing.assert_array_equal(load_model(path)[0].predict_proba(X), fitted.predict_proba(X))


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_regressor_predicts_as_before(path, fit_intercept):
    X, y = load_diabetes(return_X_y=True)
    fitted = Ridge(alpha=0.5, fit_intercept=fit_intercept).fit(X, y)
    save_model(fitted, path)
    loaded, _ = load_model(path)
    np.testing.assert_array_equal(loaded.predict(X), fitted.predict(X))
    assert loaded.get_params() == fitted.get_params()


def test_several_targets(path):
    X, y = load_diabetes(return_X_y=True)
    fitted = Ridge().fit(X, np.column_stack([y, -y]))
    save_model(fitted, path)
    np.testing.assert_array_equal(load_model(path)[0].predict(X), fitted.predict(X))


@pytest.mark.parametrize(
    "case", [c for c in CASES if not c.data.__name__.endswith("labels")], ids=str
)
def test_every_estimator_predicts_as_before(path, case):
    X, y = case.data()
    fitted = case.own().fit(X, y)
    save_model(fitted, path)
    loaded, _ = load_model(path)
    np.testing.assert_array_equal(loaded.predict(X), fitted.predict(X))
    if hasattr(fitted, "classes_"):
        np.testing.assert_array_equal(loaded.decision_function(X), fitted.decision_function(X))
        np.testing.assert_array_equal(loaded.classes_, fitted.classes_)


# --- losses ------------------------------------------------------------------------------------


class LogCosh(Loss):
    convex = True

    def __init__(self, width=1.0):
        self.width = width

    def value(self, y, z):
        return np.logaddexp((z - y) / self.width, (y - z) / self.width)

    def gradient(self, y, z):
        return np.tanh((z - y) / self.width) / self.width

    def hessian(self, y, z):
        return (1.0 - np.tanh((z - y) / self.width) ** 2) / self.width**2

    def inverse_link(self, z):
        return z * self.width


@pytest.mark.parametrize("loss", [None, LogisticLoss(), TweedieLoss(1.5, unit=2.0)], ids=str)
def test_a_loss_of_the_library_comes_back(path, loss):
    X, y = load_breast_cancer(return_X_y=True)
    fitted = GeneralizedLinear(loss, alpha=0.5).fit(scale(X), y)
    save_model(fitted, path)
    loaded, _ = load_model(path)
    assert type(loaded.loss) is type(loss)
    assert loaded.alpha == 0.5
    np.testing.assert_array_equal(loaded.predict(scale(X)), fitted.predict(scale(X)))


def test_a_loss_of_ones_own_is_given_again_when_loading(path):
    X, y = load_diabetes(return_X_y=True)
    fitted = GeneralizedLinear(LogCosh(width=50.0)).fit(X, y)
    save_model(fitted, path)
    assert b"module" not in path.read_bytes()  # nothing that could be imported
    with pytest.raises(ValueError, match="loss 'LogCosh', which is none of hoag_shine's own"):
        load_model(path)
    with pytest.raises(ValueError, match="but the model was saved with LogCosh"):
        load_model(path, loss=SquaredLoss())
    loaded, _ = load_model(path, loss=LogCosh(width=50.0))
    np.testing.assert_array_equal(loaded.predict(X), fitted.predict(X))


def test_a_loss_that_was_not_saved_is_refused(path, breast_cancer):
    save_model(LogisticRegression().fit(*breast_cancer), path)
    with pytest.raises(ValueError, match="but the model was saved with none"):
        load_model(path, loss=SquaredLoss())


def test_several_labels_for_a_sample_cannot_be_saved(path):
    with pytest.raises(ValueError, match="several labels for each sample"):
        save_model(RidgeClassifier().fit(*several_labels()), path)


def test_notes_come_back(path, breast_cancer):
    notes = {"best_score": -0.1, "tuned": {"folds": 5}, "zero_based": None}
    save_model(LogisticRegression().fit(*breast_cancer), path, notes)
    assert load_model(path)[1] == notes


def test_other_programs_can_read_the_arrays(path, breast_cancer):
    fitted = LogisticRegression().fit(*breast_cancer)
    save_model(fitted, path)
    np.testing.assert_array_equal(load_file(path)["coef"], fitted.coef_)


def test_what_cannot_be_saved(path, breast_cancer):
    with pytest.raises(TypeError, match=r"LogisticRegression, .*, got Lasso"):
        save_model(Lasso(), path)
    with pytest.raises(NotFittedError):
        save_model(Ridge(), path)
    with pytest.raises(OSError, match="nowhere"):
        save_model(Ridge().fit(*breast_cancer), path.parent / "nowhere" / "model")
    assert not path.exists()


@pytest.mark.parametrize("content", [b"", b"1 1:0.5\n", b"\x80\x04K\x01.", b"\xff" * 100])
def test_other_files(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors' is not a model saved"):
        load_model(path)


def test_missing_file(path):
    with pytest.raises(FileNotFoundError, match="no model file"):
        load_model(path)


# What a file of the first version holds, which had no checksum, so that any change is a new file.
FIRST_VERSION = {
    "format": "hoag_shine linear model",
    "version": "0",
    "estimator": "LogisticRegression",
    "params": {},
    "classes": [0, 1],
    "loss": None,
    "notes": {},
}
TENSORS = {"coef": np.array([[1.0, -2.0]]), "intercept": np.array([0.5])}
AS_REGRESSOR = {"estimator": "GeneralizedLinear", "classes": [], "coef": np.array([1.0, -2.0])}


def write(path, header=FIRST_VERSION, tensors=TENSORS):
    texts = {key: json.dumps(value) for key, value in header.items()}
    save_file(tensors, path, metadata=texts)


def test_a_file_of_the_first_version_is_read_with_a_warning(path):
    write(path)
    with pytest.warns(UserWarning, match="without a checksum"):
        loaded, _ = load_model(path)
    np.testing.assert_array_equal(loaded.decision_function([[3.0, 1.0]]), [1.5])


@pytest.mark.filterwarnings("ignore:.*without a checksum")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "another"}, "does not say"),
        ({"classes": "ab"}, "classes must be a list, not str"),
        ({"classes": {"a": 0, "b": 1}}, "classes must be a list, not dict"),
        ({"classes": None}, "classes must be a list, not NoneType"),
        ({"classes": [1, 0]}, "ascending order"),
        ({"classes": [1, 1]}, "ascending order"),
        ({"classes": [0.0, float("nan")]}, "ascending order"),
        ({"classes": [0, "1"]}, "all of one type"),
        ({"classes": [[0], [1]]}, "all of one type"),
        ({"classes": []}, "do not go together"),
        (AS_REGRESSOR | {"classes": [0, 1]}, "GeneralizedLinear has no classes"),
        ({"notes": [["a", 1]]}, "notes must be a dict"),
        ({"params": []}, "params must be a dict"),
        ({"estimator": ["Ridge"]}, "estimator must be a str"),
        (AS_REGRESSOR | {"loss": {"class": "TweedieLoss", "params": [1.5]}}, "cannot be made"),
        (
            AS_REGRESSOR | {"loss": {"class": "TweedieLoss", "params": {"power": 0.5}}},
            "TweedieLoss that cannot be made: power",
        ),
        ({"loss": {"class": "SquaredLoss", "params": {}}}, "takes no loss"),
        ({"coef": np.ones((0, 2))}, "do not go together"),
        ({"coef": np.ones((1, 0))}, "do not go together"),
        ({"coef": np.ones((1, 2), int)}, "coefficients are int64"),
        ({"intercept": np.ones((1, 1))}, "do not go together"),
        ({"estimator": "Pipeline"}, "Pipeline"),
        ({"params": {"no_such": 1}}, "no_such"),
        ({"classes": [0, 1, 2]}, "do not go together"),
        ({"loss": {"class": "TweedieLoss", "params": {"no_such": 1}}}, "TweedieLoss that cannot"),
        ({"loss": {"class": "os.system", "params": {"command": "true"}}}, "'os.system', which is"),
        ({"coef": np.array([[np.nan, 1.0]])}, "not finite"),
        ({"coef": np.ones((4, 2))}, "do not go together"),
        ({"coef": np.array(1.0)}, "do not go together"),
        ({"intercept": np.ones(7)}, "do not go together"),
    ],
)
def test_files_that_are_not_whole(path, change, message):
    parts = FIRST_VERSION | TENSORS | change
    header, tensors = ({key: parts[key] for key in keys} for keys in (FIRST_VERSION, TENSORS))
    write(path, header, tensors)
    with pytest.raises(ValueError, match=message):
        load_model(path)


@pytest.mark.filterwarnings("ignore:.*without a checksum")
@pytest.mark.parametrize("deep", ["[" * 100_000, '{"a":' * 100_000, "[" * 10_000 + "]" * 10_000])
def test_texts_that_are_nested_too_deeply(path, deep, capsys):
    texts = {key: json.dumps(value) for key, value in FIRST_VERSION.items()}
    save_file(TENSORS, path, metadata=texts | {"notes": deep})
    with pytest.raises(ValueError, match="is not a model saved"):
        load_model(path)
    assert main(["predict", str(path), "sklearn:iris"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_notes_that_are_nested_too_deeply_are_not_saved(path, breast_cancer):
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ValueError, match="nested too deeply"):
        save_model(LogisticRegression().fit(*breast_cancer), path, {"deep": deep})
    assert not path.exists()


@pytest.mark.parametrize("name", ["coef_", "intercept_"])
def test_what_is_not_finite_is_not_saved(path, breast_cancer, name):
    fitted = LogisticRegression().fit(*breast_cancer)
    getattr(fitted, name).flat[0] = np.inf
    with pytest.raises(ValueError, match=r"cannot be saved: .*not finite"):
        save_model(fitted, path)
    assert not path.exists()


def test_a_file_of_a_later_version_is_refused(path):
    write(path, FIRST_VERSION | {"format_version": 4, "sha256": "0"})
    with pytest.raises(ValueError, match="version of its format is 4"):
        load_model(path)


# --- damage ------------------------------------------------------------------------------------


@pytest.fixture
def saved(path):
    """The content of a file, and what it is loaded as."""
    X, y = load_iris(return_X_y=True)
    fitted = LogisticRegression(C=0.3).fit(X, np.array(["a", "b", "c"])[y])
    save_model(fitted, path, {"best_params": {"C": 0.3}, "zero_based": False})
    return path.read_bytes(), content_of(path)


def content_of(path):
    model, notes = load_model(path)
    return model.get_params(), model.classes_.tolist(), tuple(map(raw, arrays_of(model))), notes


def arrays_of(model):
    return model.coef_, model.intercept_


def raw(array):
    return array.dtype, array.shape, array.tobytes()


def test_a_bit_that_is_flipped_is_found(path, saved):
    """Or it does not matter: the same number can be written in several ways."""
    content, expected = saved
    n_found = 0
    for position in range(len(content)):
        bit = 1 << (position * 7919 % 8)
        path.write_bytes(
            content[:position] + bytes([content[position] ^ bit]) + content[position + 1 :]
        )
        try:
            loaded = content_of(path)
        except ValueError:
            n_found += 1
        else:
            assert loaded == expected
    assert n_found > 0.9 * len(content)


def test_a_damaged_file_is_one_line_in_a_shell(path, saved, capsys):
    content, _ = saved
    path.write_bytes(content[:-4] + b"\0\0\0\1")
    assert main(["predict", str(path), "sklearn:iris"]) == 2
    assert re.fullmatch(r"hoag-shine: error: .* damaged.* SHA-256 .*\n", capsys.readouterr().err)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a bound on memory")
def test_huge_files_are_refused_in_little_memory(path):
    """Zeros that take no room on the disk, behind what says how long the header is."""
    code = f"""
import resource
from pathlib import Path
from hoag_shine.persistence import load_model
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for length in (0, 10**6, 10**8, 10**10, 2**64 - 1):
    with Path({str(path)!r}).open("wb") as file:
        file.write(length.to_bytes(8, "little"))
        file.truncate(8 << 30)
    try:
        load_model({str(path)!r})
    except ValueError:
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used) >> 10)
"""
    megabytes = [int(word) for word in in_a_process(code)]
    assert len(megabytes) == 5
    assert max(megabytes) < 300


def test_a_file_that_is_cut_is_found(path, saved):
    content, _ = saved
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="is not a model saved"):
            load_model(path)


def test_any_part_that_is_exchanged_is_found(path, saved):
    """By parts of another whole file, so that all is well-formed."""
    with safe_open(path, framework="numpy") as file:
        texts = file.metadata()
    tensors = load_file(path)
    others = {
        "version": "9.9",
        "estimator": "LinearSVC",
        "params": {"C": 0.4},
        "classes": ["a", "b", "d"],
        "notes": {},
    }
    for key, value in others.items():
        save_file(tensors, path, metadata=texts | {key: json.dumps(value)})
        with pytest.raises(ValueError, match="its SHA-256 is another"):
            load_model(path)
    for key in tensors:
        save_file(tensors | {key: tensors[key] + 1e-12}, path, metadata=texts)
        with pytest.raises(ValueError, match="its SHA-256 is another"):
            load_model(path)
    save_file(tensors, path, metadata=texts)
    load_model(path)


def test_a_safetensors_file_of_something_else(path):
    save_file({"weight": np.ones(3)}, path)
    with pytest.raises(ValueError, match="is not a model saved"):
        load_model(path)


def test_a_penalty_of_ones_own_is_refused(tmp_path):
    """It would be lost: the file has no place for it."""

    @dataclass(frozen=True)
    class Half(L2):
        pass

    X, y = np.eye(4), np.arange(4.0)
    with pytest.raises(ValueError, match=r"has the penalty .*Half\(\)"):
        save_model(GeneralizedLinear(penalty=Half()).fit(X, y), tmp_path / "model")
    save_model(GeneralizedLinear(penalty=L2()).fit(X, y), tmp_path / "model")
    assert load_model(tmp_path / "model")[0].penalty is None
