"""Links to other packages' documentation by inventories made here: a build needs no network."""

import zlib

# For each project its name, where it is, the address of a class there, and the classes we name.
PROJECTS = {
    "sklearn": (
        "scikit-learn",
        "https://scikit-learn.org/stable/",
        "modules/generated/$.html",
        """
        sklearn.compose.ColumnTransformer
        sklearn.compose.TransformedTargetRegressor
        sklearn.exceptions.ConvergenceWarning
        sklearn.linear_model.GammaRegressor
        sklearn.linear_model.HuberRegressor
        sklearn.linear_model.LogisticRegression
        sklearn.linear_model.PoissonRegressor
        sklearn.linear_model.Ridge
        sklearn.linear_model.RidgeClassifier
        sklearn.linear_model.TweedieRegressor
        sklearn.model_selection.GridSearchCV
        sklearn.model_selection.PredefinedSplit
        sklearn.pipeline.Pipeline
        sklearn.preprocessing.StandardScaler
        sklearn.svm.LinearSVC
        """,
    ),
    "numpy": (
        "NumPy",
        "https://numpy.org/doc/stable/",
        "reference/generated/$.html",
        "numpy.memmap",
    ),
    "scipy": (
        "SciPy",
        "https://docs.scipy.org/doc/scipy/",
        "reference/generated/$.html",
        "scipy.sparse.csr_array",
    ),
}


def mapping(folder):
    """Write the inventories to a folder, and return what ``intersphinx_mapping`` is to be."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for project, (title, address, page, names) in PROJECTS.items():
        path = folder / f"{project}.inv"
        path.write_bytes(_inventory(title, page, names.split()))
        found[project] = (address, str(path))
    return found


def _inventory(title, page, names):
    """Return an inventory of version 2 of Sphinx's format."""
    lines = [f"{name} py:class 1 {page.replace('$', name)}#$ -" for name in sorted(names)]
    head = (
        f"# Sphinx inventory version 2\n# Project: {title}\n# Version: \n"
        "# The remainder of this file is compressed using zlib.\n"
    )
    return head.encode() + zlib.compress("\n".join([*lines, ""]).encode())
