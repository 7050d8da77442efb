"""How good an explanation is: features flipped in its order, sparsity, sensitivity, randomized weights.

Examples
--------
>>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.array([[3.0], [1.0], [0.0]]))])
>>> x = np.ones((1, 3))
>>> relevance = lrpfast.Analyzer(model, "epsilon").analyze(x)
>>> curves = lrpfast.evaluate.flip(model, x, relevance, target=0)
>>> curves.mean["most"].tolist(), curves.mean["least"].tolist()
([4.0, 1.0, 0.0, 0.0], [4.0, 4.0, 3.0, 0.0])
"""

from .cascade import Randomization, randomization
from .curves import FlipCurves
from .flipping import flip
from .measures import entropy, gini
from .noise import sensitivity

__all__ = ["FlipCurves", "Randomization", "entropy", "flip", "gini", "randomization", "sensitivity"]


def __dir__() -> list[str]:
    return sorted(__all__)
