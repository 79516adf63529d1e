from benchmark_utils.data import five_folds
from benchopt import BaseDataset


class Dataset(BaseDataset):
    """569 x 30, comes with scikit-learn; standardised, five folds."""

    name = "breast_cancer"

    def get_data(self):
        return five_folds("sklearn:breast_cancer")
