from typing import ClassVar

from benchmark_utils.data import holdout, or_absent
from benchopt import BaseDataset


class Dataset(BaseDataset):
    """18,846 x 130,107, sparse; the 90/5/5 hold-out of SHINE's experiments."""

    name = "20news"
    parameters: ClassVar = {"split_seed": [0, 1, 2]}

    def get_data(self):
        return or_absent(holdout, "text:20news", self.split_seed)
