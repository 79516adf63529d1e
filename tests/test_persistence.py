"""Models in files."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Lasso, LogisticRegression, Ridge
from sklearn.preprocessing import scale

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


def test_notes_come_back(path, breast_cancer):
    notes = {"best_score": -0.1, "tuned": {"folds": 5}, "zero_based": None}
    save_model(LogisticRegression().fit(*breast_cancer), path, notes)
    assert load_model(path)[1] == notes


def test_other_programs_can_read_the_arrays(path, breast_cancer):
    fitted = LogisticRegression().fit(*breast_cancer)
    save_model(fitted, path)
    np.testing.assert_array_equal(load_file(path)["coef"], fitted.coef_)


def test_what_cannot_be_saved(path, breast_cancer):
    with pytest.raises(TypeError, match=r"LogisticRegression, Ridge, got Lasso"):
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
