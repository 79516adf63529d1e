"""The inner problems of a search."""

from sklearn.linear_model import LogisticRegression

from hoag_shine.search.folds import FoldedData, problems_of


def searched(data):
    """Return the folds of logistic regression as ShineCV has them, with columns merged."""
    folds = FoldedData(LogisticRegression(), data["X"], data["y"], cv=data["cv"])
    groups = folds.groups("shared", folds.designs)
    designs = [p.with_groups(g, reduce=True) for p, g in zip(folds.designs, groups, strict=True)]
    return problems_of(designs)
