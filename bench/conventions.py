"""What all tools are told, whatever environment they run in."""

from __future__ import annotations

from typing import Any

#: ε of every case: about a tenth of what z typically is. With a smaller one single denominators come near zero, and
#: then the last bits of float32 decide the result, in every tool other ones.
EPSILON = 0.1

#: Threads that every tool may use.
THREADS = 2

#: iNNvestigate's name and keywords for each rule that it has.
INNVESTIGATE: dict[str, tuple[str, dict[str, Any]]] = {
    "epsilon": ("lrp.epsilon", {"epsilon": EPSILON}),
    "z_plus": ("lrp.z_plus", {}),
    "alpha2_beta1": ("lrp.alpha_2_beta_1", {}),
    "bounded": ("lrp.alpha_1_beta_0_IB", {"input_layer_rule": "Bounded"}),
}
