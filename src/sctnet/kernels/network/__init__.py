"""One network as compiled loops: a list of steps, and the loop that computes them."""

from sctnet.kernels.network.network import CpuNetwork, has_cpu_kernels

__all__ = ["CpuNetwork", "has_cpu_kernels"]
