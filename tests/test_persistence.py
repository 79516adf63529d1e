"""Models in files."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Lasso, LogisticRegression, Ridge, RidgeClassifier
from sklearn.preprocessing import scale
from supported import CASES, several_labels

from hoag_shine import GeneralizedLinear, LogisticLoss, Loss, SquaredLoss, TweedieLoss
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "another"}, "does not say"),
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
    header = {
        "format": "hoag_shine linear model",
        "version": "0",
        "estimator": "LogisticRegression",
        "params": {},
        "classes": [0, 1],
        "loss": None,
        "notes": {},
    }
    tensors = {"coef": np.ones((1, 2)), "intercept": np.ones(1)}

    def write(parts):
        texts = {key: json.dumps(parts[key]) for key in header}
        save_file({key: parts[key] for key in tensors}, path, metadata=texts)

    write(header | tensors)
    load_model(path)
    write(header | tensors | change)
    with pytest.raises(ValueError, match=message):
        load_model(path)


def test_a_safetensors_file_of_something_else(path):
    save_file({"weight": np.ones(3)}, path)
    with pytest.raises(ValueError, match="is not a model saved"):
        load_model(path)
