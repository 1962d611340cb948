"""Networks computed on the CPU by loops of our own."""

from sctnet.kernels.network.network import CompiledNetwork, can_be_compiled

__all__ = ["CompiledNetwork", "can_be_compiled"]
