"""The channel and the radio: multipath fading, noise and hardware impairments (paper, eq. 5, 6)."""
