"""Other libraries' data, files and tools: a row of the table in the guide for each test."""

import pickle
from contextlib import contextmanager
from enum import Enum
from functools import cache

import joblib
import numpy as np
import pytest
from helpers import breast_cancer, diabetes
from sklearn import config_context
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hoag_shine import ShineCV
from hoag_shine.persistence import load_model, save_model

NAMES = [f"f{i}" for i in range(30)]


def rows():
    """Return X and y: a third of the breast cancer data, which is enough for what is shown here."""
    X, y = breast_cancer()
    return X[::3], y[::3]


@cache
def plain_search(data="arrays"):
    """Return what a search finds in arrays; of a frame, that knows the names, too."""
    search = ShineCV(LogisticRegression(), cv=3)
    return search.fit(*(rows() if data == "arrays" else frame_of("pandas")))


def frame_of(library):
    """Return X with names, and y, as another library has them."""
    X, y = rows()
    if library == "polars":
        polars = pytest.importorskip("polars")
        return polars.DataFrame(X.copy(), schema=NAMES), polars.Series(y.copy())
    pandas = pytest.importorskip("pandas")
    X, y = pandas.DataFrame(X, columns=NAMES), pandas.Series(y)
    if library == "arrow":
        arrow = pytest.importorskip("pyarrow")
        return arrow.Table.from_pandas(X), arrow.array(y)
    if library == "nullable":
        return X.astype("Float64"), y.astype("Int64")
    if library == "categories":
        return X, y.map({0: "bad", 1: "good"}).astype("category")
    return X, y


@pytest.mark.parametrize("library", ["pandas", "polars", "arrow", "nullable", "categories"])
def test_data_frames_are_data_with_names(library):
    X, y = frame_of(library)
    search = ShineCV(LogisticRegression(), cv=3).fit(X, y)
    plain = plain_search()
    assert search.best_params_["C"] == pytest.approx(plain.best_params_["C"], rel=1e-6)
    assert list(search.feature_names_in_) == NAMES
    np.testing.assert_allclose(search.predict_proba(X), plain.predict_proba(rows()[0]), atol=1e-6)


class Lazy:
    """What Dask's collections look like to those that do not import it."""

    def __init__(self, data):
        self._data = data

    def __dask_graph__(self):
        return {}

    def compute(self):
        return self._data


def lazily(library):
    """Return X with names, and y, as collections that are computed when they are wanted."""
    X, y = frame_of("pandas")
    if library == "stand-in":
        return Lazy(X), Lazy(y)
    dask = pytest.importorskip("dask.dataframe")
    return dask.from_pandas(X, npartitions=3), dask.from_pandas(y, npartitions=3)


@pytest.mark.parametrize("library", ["stand-in", "dask"])
def test_dask_collections_are_computed_and_keep_their_names(library):
    X, y = lazily(library)
    search, plain = ShineCV(LogisticRegression(), cv=3).fit(X, y), plain_search("frame")
    assert search.best_params_ == plain.best_params_
    assert list(search.feature_names_in_) == NAMES
    np.testing.assert_array_equal(search.predict(X), plain.predict(frame_of("pandas")[0]))
    assert search.score(X, y) == plain.score(*frame_of("pandas"))


@pytest.mark.parametrize("library", ["stand-in", "dask"])
def test_transformers_get_rows_of_dask_collections(library):
    X, y = lazily(library)
    columns = ColumnTransformer([("scale", StandardScaler(), NAMES[:5])])
    search = ShineCV(make_pipeline(columns, LogisticRegression()), cv=3).fit(X, y)
    assert list(search.feature_names_in_) == NAMES
    np.testing.assert_array_equal(
        search.predict(X), search.best_estimator_.predict(frame_of("pandas")[0])
    )


@pytest.mark.parametrize("dispatch", [False, True])
def test_tensors_are_converted(dispatch, monkeypatch):
    torch = pytest.importorskip("torch")
    if dispatch:
        from scipy._lib import _array_api  # what SCIPY_ARRAY_API=1 sets as SciPy is imported

        monkeypatch.setenv("SCIPY_ARRAY_API", "1")
        monkeypatch.setattr(_array_api, "SCIPY_ARRAY_API", True, raising=False)
    X, y = diabetes()
    tensor = torch.tensor(X)
    with config_context(array_api_dispatch=dispatch):
        search = ShineCV(Ridge(), cv=3).fit(tensor, torch.tensor(y))
        predicted = search.predict(tensor)
    plain = ShineCV(Ridge(), cv=3).fit(X, y)
    assert search.best_params_["alpha"] == pytest.approx(plain.best_params_["alpha"], rel=1e-6)
    np.testing.assert_allclose(predicted, plain.predict(X), atol=1e-6)


# --- files ---------------------------------------------------------------------------------------


@cache
def searches():
    piped = make_pipeline(StandardScaler(), LogisticRegression())
    scored = ShineCV(piped, cv=3, scoring=["accuracy", "roc_auc"], refit="roc_auc")
    return plain_search(), scored.fit(*rows())


def test_a_search_goes_through_pickle():
    for search in searches():
        loaded = pickle.loads(pickle.dumps(search))  # noqa: S301
        assert loaded.outcome_ is search.outcome_


def test_what_is_stored_of_a_search_is_no_enumeration():
    """What loads a file without running code does not make one."""
    for search in searches():
        assert not any(isinstance(value, Enum) for value in search.__getstate__().values())


def test_a_search_goes_through_skops():
    skops = pytest.importorskip("skops.io")
    X, _ = rows()
    for search in searches():
        data = skops.dumps(search)
        types = skops.get_untrusted_types(data=data)
        assert all(name.split(".")[0] in ("hoag_shine", "sklearn") for name in types)
        loaded = skops.loads(data, trusted=types)
        assert loaded.outcome_ is search.outcome_
        assert loaded.best_params_ == search.best_params_
        np.testing.assert_array_equal(loaded.predict(X), search.predict(X))


def test_names_of_columns_are_saved(tmp_path):
    X, _ = frame_of("pandas")
    fitted = plain_search("frame").best_estimator_
    save_model(fitted, tmp_path / "model")
    loaded, _ = load_model(tmp_path / "model")
    np.testing.assert_array_equal(loaded.feature_names_in_, fitted.feature_names_in_)
    np.testing.assert_array_equal(loaded.predict(X), fitted.predict(X))
    with pytest.raises(ValueError, match="feature names"):
        loaded.predict(X.rename(columns={"f0": "g0"}))


@pytest.mark.parametrize(
    "estimator",
    [
        make_pipeline(StandardScaler(), Ridge()),
        TransformedTargetRegressor(Ridge()),
        ShineCV(Ridge(), cv=3),
    ],
    ids=["pipeline", "transformed target", "search"],
)
def test_what_needs_another_format_is_told_of_it(estimator, tmp_path):
    with pytest.raises(TypeError, match=r"skops\.io\.dump"):
        save_model(estimator.fit(*diabetes()), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_the_best_estimator_goes_through_onnx():
    skl2onnx, runtime = pytest.importorskip("skl2onnx"), pytest.importorskip("onnxruntime")
    X, y = rows()
    numbers = X.astype(np.float32)
    for model in (LogisticRegression(), make_pipeline(StandardScaler(), LogisticRegression())):
        search = ShineCV(model, cv=3).fit(X, y)
        graph = skl2onnx.to_onnx(search.best_estimator_, numbers[:1]).SerializeToString()
        session = runtime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        labels, _ = session.run(None, {"X": numbers})
        np.testing.assert_array_equal(labels, search.predict(X))
    with pytest.raises(Exception, match="ShineCV"):  # of skl2onnx, which has no converter of it
        skl2onnx.to_onnx(search, numbers[:1])


# --- tools ---------------------------------------------------------------------------------------


@contextmanager
def workers(backend):
    """Have joblib run in workers of a backend, those of another package included."""
    if backend == "dask":
        distributed = pytest.importorskip("distributed")
        cluster = distributed.LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
        )
        with cluster, distributed.Client(cluster), joblib.parallel_config(backend="dask"):
            yield
        return
    if backend == "ray":
        ray = pytest.importorskip("ray")
        pytest.importorskip("ray.util.joblib").register_ray()
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        with joblib.parallel_config(backend=backend, n_jobs=2):
            yield
    finally:
        if backend == "ray":
            ray.shutdown()


@pytest.mark.filterwarnings("default")  # of the packages
@pytest.mark.parametrize("backend", ["threading", "dask", "ray"])
def test_searches_run_in_workers_of_joblib(backend):
    X, y = diabetes()
    search = ShineCV(Ridge(), cv=3, n_jobs=2)
    alone = cross_val_score(search, X, y, cv=2)
    with workers(backend):
        np.testing.assert_allclose(cross_val_score(search, X, y, cv=2), alone, rtol=1e-6)
        inside = ShineCV(make_pipeline(StandardScaler(), Ridge()), cv=3, n_jobs=2).fit(X, y)
    outside = ShineCV(make_pipeline(StandardScaler(), Ridge()), cv=3).fit(X, y)
    assert inside.best_params_["ridge__alpha"] == pytest.approx(
        outside.best_params_["ridge__alpha"], rel=1e-6
    )


def as_a_grid_scores(model, search, X, y):
    """Return what a grid reports at the penalty that a search has chosen."""
    (name,) = search.best_params_
    grid = {name: [search.best_params_[name]]}
    return GridSearchCV(model, grid, cv=search.cv, scoring="neg_log_loss").fit(X, y).best_score_


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("encoder", ["OneHotEncoder", "TargetEncoder", "LeaveOneOutEncoder"])
def test_category_encoders_see_the_training_rows_alone(encoder):
    encoders = pytest.importorskip("category_encoders")
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    X = pandas.DataFrame({"town": rng.choice(list("abcdef"), 300), "size": rng.normal(size=300)})
    y = (X["town"].isin(["a", "b"]) + X["size"] + rng.normal(size=300) > 0.5).astype(int)
    last = LogisticRegression(solver="newton-cholesky", tol=1e-8)
    model = make_pipeline(getattr(encoders, encoder)(), last)
    search = ShineCV(model, cv=3).fit(X, y)
    assert search.best_score_ == pytest.approx(as_a_grid_scores(model, search, X, y), rel=1e-4)


@pytest.mark.filterwarnings("default")
def test_samplers_of_imbalanced_learn_see_the_training_rows_alone():
    pipeline = pytest.importorskip("imblearn.pipeline")
    sampling = pytest.importorskip("imblearn.over_sampling")
    X, y = rows()
    last = LogisticRegression(solver="newton-cholesky", tol=1e-8)
    sampler = sampling.RandomOverSampler(random_state=0)
    model = pipeline.make_pipeline(StandardScaler(), sampler, last)
    search = ShineCV(model, cv=3).fit(X, y)
    assert search.best_score_ == pytest.approx(as_a_grid_scores(model, search, X, y), rel=1e-4)


@pytest.mark.filterwarnings("default")
def test_shap_explains_it():
    shap = pytest.importorskip("shap")
    X, y = diabetes()
    search = ShineCV(Ridge(), cv=3).fit(X, y)
    explained = shap.LinearExplainer(search, X)(X[:5])
    np.testing.assert_allclose(
        explained.values.sum(axis=1) + explained.base_values, search.predict(X[:5])
    )


def test_optuna_tunes_around_it():
    optuna = pytest.importorskip("optuna")
    X, y = rows()
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def objective(trial):
        weight = trial.suggest_categorical("class_weight", [None, "balanced"])
        return ShineCV(LogisticRegression(class_weight=weight), cv=3).fit(X, y).best_score_

    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.GridSampler({"class_weight": [None, "balanced"]}),
    )
    study.optimize(objective, n_trials=2)
    assert study.best_value == max(trial.value for trial in study.trials)


@pytest.mark.filterwarnings("default")
def test_mlflow_logs_by_the_lines_of_the_guide(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(tmp_path.as_uri())
    mlflow.set_experiment("tuning")
    X, search = rows()[0], plain_search()
    with mlflow.start_run() as run:
        mlflow.log_params(search.best_params_)
        mlflow.log_metric("best_score", search.best_score_)
        info = mlflow.sklearn.log_model(search.best_estimator_, name="model")
    logged = mlflow.get_run(run.info.run_id).data
    assert float(logged.params["C"]) == search.best_params_["C"]
    assert logged.metrics["best_score"] == pytest.approx(search.best_score_)
    loaded = mlflow.sklearn.load_model(info.model_uri)
    np.testing.assert_array_equal(loaded.predict(X), search.predict(X))


def test_a_notebook_shows_it():
    search = ShineCV(make_pipeline(StandardScaler(), LogisticRegression()), cv=3)
    assert "StandardScaler" in search._repr_html_()
    assert "best_estimator_" in search.fit(*rows())._repr_html_()
