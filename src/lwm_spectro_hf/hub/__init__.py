"""Weights in and out: the importer of the published checkpoints, and the folders that go to the Hub."""
