"""Hardware counterparts of ``sim/golden/numerics.py``: layouts, sequential units, pieces of pipelines.

| part | does |
|---|---|
| ``SCALAR`` | layout of a pseudo-float |
| ``Divider``, ``SquareRoot`` | integers, one result bit per cycle |
| ``Normalizer`` | bit length and left-justified number |
| ``ScalarUnit`` | pseudo-floats: multiply, add, reciprocal, 1 / sqrt |
"""

from .divider import Divider
from .formats import SCALAR
from .normalizer import Normalizer
from .root import SquareRoot
from .scalar import ScalarOp, ScalarUnit, scalar_request

__all__ = ["SCALAR", "Divider", "Normalizer", "ScalarOp", "ScalarUnit", "SquareRoot", "scalar_request"]
