"""Features of frames by Inception-v3, and labelled clips of them: data/frames becomes data/features and sequences."""
