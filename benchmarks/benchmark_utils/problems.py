"""The inner problems of a search."""

from sklearn.linear_model import LogisticRegression

from hoag_shine.search.folds import FoldedData, problems_of


def searched(data):
    """Return the folds of logistic regression as ShineCV has them, with columns merged."""
    folds = FoldedData(LogisticRegression(), data["X"], data["y"], cv=data["cv"])
    groups = folds.groups("shared", folds.parts)
    parts = [p.with_groups(g, reduce=True) for p, g in zip(folds.parts, groups, strict=True)]
    return problems_of(parts)
