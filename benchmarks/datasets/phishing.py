from benchmark_utils.data import five_folds, or_absent
from benchopt import BaseDataset


class Dataset(BaseDataset):
    """11,055 x 68, sparse; five folds."""

    name = "phishing"

    def get_data(self):
        return or_absent(five_folds, "libsvm:phishing")
