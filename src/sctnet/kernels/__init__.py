"""The loops that are compiled for the CPU: preprocessing, argmax and the whole network."""
