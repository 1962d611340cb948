"""Videos: decoded, labelled, drawn and encoded at the same time."""
