"""Pictures for people: palettes, label maps, overlays, contact sheets and plots.

Pictures are uint8 H x W x 3 RGB arrays, label maps H x W arrays of class indices; a label that is
no class (255 marks ignored pixels) has no colour and is left as it is.
"""
