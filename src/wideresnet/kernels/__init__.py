"""Our own kernels for the CPU, where the package was built with a C++ compiler: csrc/ computes, the rest plans.

docs/kernels.md says how it works and how exact it is.
"""

from wideresnet.kernels.accelerated import Accelerated, accelerate, why_not
from wideresnet.kernels.library import build, isa, state, threads
from wideresnet.kernels.update import update

__all__ = ["Accelerated", "accelerate", "build", "isa", "state", "threads", "update", "why_not"]
