# What the package offers; __init__.py loads the modules when a name is asked for.

from ._version import __version__ as __version__
from .datasets import load_dataset as load_dataset
from .estimators.generalized_linear import GeneralizedLinear as GeneralizedLinear
from .hypergradients import Hypergradient as Hypergradient
from .inner import InverseHessian as InverseHessian
from .inner import (
    Solution as Solution,
)
from .inner import (
    Status as Status,
)
from .inner import (
    minimize_lbfgs as minimize_lbfgs,
)
from .linalg.row_blocks import ArrayBlocks as ArrayBlocks
from .linalg.row_blocks import CSRBlocks as CSRBlocks
from .linalg.row_blocks import ParquetBlocks as ParquetBlocks
from .linalg.row_blocks import RowBlocks as RowBlocks
from .outer.hoag import (
    HoagResult as HoagResult,
)
from .outer.hoag import (
    hoag as hoag,
)
from .outer.steps import (
    Certificate as Certificate,
)
from .outer.steps import (
    Outcome as Outcome,
)
from .plotting import (
    ShineCurveDisplay as ShineCurveDisplay,
)
from .plotting import (
    ShinePathDisplay as ShinePathDisplay,
)
from .problems.base import (
    Problem as Problem,
)
from .problems.base import (
    ProblemSet as ProblemSet,
)
from .problems.losses import (
    HuberLoss as HuberLoss,
)
from .problems.losses import (
    LogisticLoss as LogisticLoss,
)
from .problems.losses import (
    Loss as Loss,
)
from .problems.losses import (
    MultinomialLoss as MultinomialLoss,
)
from .problems.losses import (
    SigmoidSquaredLoss as SigmoidSquaredLoss,
)
from .problems.losses import (
    SquaredHingeLoss as SquaredHingeLoss,
)
from .problems.losses import (
    SquaredLoss as SquaredLoss,
)
from .problems.losses import (
    TweedieLoss as TweedieLoss,
)
from .problems.penalties import L2 as L2
from .problems.penalties import Penalty as Penalty
from .search import ShineCV as ShineCV
from .search.folds import fold_problems as fold_problems
