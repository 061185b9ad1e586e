"""Numbers of the standards that no formula gives."""
