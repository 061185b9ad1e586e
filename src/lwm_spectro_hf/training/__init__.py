"""Training: what the example scripts call."""
