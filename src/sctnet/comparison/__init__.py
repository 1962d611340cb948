"""The paper's comparison: its tables as printed, and the same networks timed on this machine."""
