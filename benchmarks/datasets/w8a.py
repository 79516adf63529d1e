from benchmark_utils.data import five_folds, or_absent
from benchopt import BaseDataset


class Dataset(BaseDataset):
    """49,749 x 300, sparse; five folds."""

    name = "w8a"

    def get_data(self):
        return or_absent(five_folds, "libsvm:w8a")
