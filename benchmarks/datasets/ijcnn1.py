from benchmark_utils.data import five_folds, or_absent
from benchopt import BaseDataset


class Dataset(BaseDataset):
    """49,990 x 22, dense; five folds."""

    name = "ijcnn1"

    def get_data(self):
        return or_absent(five_folds, "libsvm:ijcnn1")
