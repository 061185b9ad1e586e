"""What happens to a waveform on its way: multipath fading, noise, the imperfections of radios (paper, eq. 5, 6)."""
