"""Import the published checkpoints, and write folders for the Hub."""
