"""Training, as the example scripts use it."""
