"""Files that run without this package, and the proof that they are right."""
