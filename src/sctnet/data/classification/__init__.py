"""Classification data sets: pictures with one class each."""
