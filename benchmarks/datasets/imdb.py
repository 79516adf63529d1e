from benchmark_utils.data import five_folds, or_absent
from benchopt import BaseDataset


class Dataset(BaseDataset):
    """25,000 x 74,849, sparse; five folds."""

    name = "imdb"

    def get_data(self):
        return or_absent(five_folds, "text:imdb")
