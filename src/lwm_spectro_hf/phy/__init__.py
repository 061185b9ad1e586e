"""Bits to complex baseband: OFDM waveforms of WiFi, LTE and 5G NR as batched torch (paper, sec. II-A)."""
