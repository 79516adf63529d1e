from benchmark_utils.data import five_folds, or_absent
from benchopt import BaseDataset


class Dataset(BaseDataset):
    """32,561 x 123, sparse; five folds."""

    name = "a9a"

    def get_data(self):
        return or_absent(five_folds, "libsvm:a9a")
