"""One network as compiled loops: a list of steps, and the loop that computes them."""

from sctnet.kernels.network.network import CompiledNetwork, can_be_compiled

__all__ = ["CompiledNetwork", "can_be_compiled"]
