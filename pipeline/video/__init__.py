"""Videos to frames, frames to Inception-v3 features, features to labelled clips."""
