"""The study "When does it help?": a grid over the one way of training, and a judge of the paper's claims."""
