"""Our own kernels for the CPU, where the package was built with a C++ compiler: csrc/ computes, the rest plans.

docs/kernels.md says how it works and how exact it is.
"""

from wideresnet.kernels.accelerated import Accelerated, accelerate, why_not
from wideresnet.kernels.library import isa, state

__all__ = ["Accelerated", "accelerate", "isa", "state", "why_not"]
