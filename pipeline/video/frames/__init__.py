"""Decoding videos and sampling their frames: data/raw/video becomes data/frames."""
