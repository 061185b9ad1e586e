"""Data: recordings in, recipes of generated data, and their synthesis."""
