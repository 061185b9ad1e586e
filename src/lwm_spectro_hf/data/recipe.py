"""What is drawn: the distributions of carriers, channels and receivers behind a generated data set."""

from dataclasses import dataclass, field

PROTOCOLS = ("WiFi", "LTE", "5G")
MODULATIONS = ("BPSK", "QPSK", "16QAM", "64QAM", "256QAM")
SNRS_DB = (-5, 0, 5, 10, 15, 20, 25)
MOBILITIES = ("static", "pedestrian", "vehicular")


@dataclass(frozen=True)
class Recipe:
    """Ranges of everything that varies from one recording to the next.

    Attributes:
        snrs_db: SNR in the occupied band, drawn from this grid [dB].
        speeds_mps: Range of speeds of each mobility class [m/s].
        carriers_hz: Carrier frequencies of each protocol; with the speed they give the Doppler shift [Hz].
        delay_spreads_s: Range of RMS delay spreads of each protocol, drawn log-uniformly [s].
        line_of_sight: Share of channels whose first tap is Rician.
        rician_k_db: Range of its K factor [dB].
        native_rate: Share of recordings made at the carrier's own sampling rate and centre; the others take a rate
            that radios offer and put the carrier anywhere inside.
        radio_rates_hz: Those rates [Hz].
        contiguous_view: Share of recordings as long as 128 frames of the front-end without gaps; the others last a
            duration drawn log-uniformly from `spans_s`.
        spans_s: Range of durations [s].
        max_samples: No recording is longer [samples].
    """

    snrs_db: tuple[int, ...] = SNRS_DB
    speeds_mps: dict[str, tuple[float, float]] = field(
        default_factory=lambda: {"static": (0.0, 0.0), "pedestrian": (0.5, 2.0), "vehicular": (8.0, 35.0)}
    )
    carriers_hz: dict[str, tuple[float, ...]] = field(
        default_factory=lambda: {
            "WiFi": (2.437e9, 5.24e9),
            "LTE": (0.8e9, 1.8e9, 2.1e9, 2.6e9),
            "5G": (0.7e9, 2.1e9, 3.5e9),
        }
    )
    delay_spreads_s: dict[str, tuple[float, float]] = field(
        default_factory=lambda: {"WiFi": (10e-9, 150e-9), "LTE": (30e-9, 1e-6), "5G": (30e-9, 1e-6)}
    )
    line_of_sight: float = 0.4
    rician_k_db: tuple[float, float] = (0.0, 15.0)
    native_rate: float = 0.5
    radio_rates_hz: tuple[float, ...] = (
        2e6, 2.4e6, 2.5e6, 4e6, 5e6, 5.76e6, 8e6, 10e6, 11.52e6, 12.5e6, 15.36e6, 16e6, 20e6, 23.04e6, 25e6, 30.72e6,
        40e6, 46.08e6, 50e6, 56e6, 61.44e6,
    )  # fmt: skip
    contiguous_view: float = 0.5
    spans_s: tuple[float, float] = (0.5e-3, 12e-3)
    max_samples: int = 400_000
