"""Compiled code: a C++ library, chosen for the processor at hand."""

from sctnet.kernels.library import InstructionSet, Library, instruction_set, library

__all__ = ["InstructionSet", "Library", "instruction_set", "library"]
