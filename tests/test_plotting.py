"""Pictures: everything is in its place, and any recording can be drawn."""

import io
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from lwm_spectro_hf import plotting
from lwm_spectro_hf.data.recordings import open_recording
from lwm_spectro_hf.plotting import (
    PROTOCOL_COLORS,
    Picture,
    describe,
    display_spectrogram,
    draw,
    draw_segments,
    picture_of,
)

RATE = 1e6
VERDICT = {
    "protocol": "LTE",
    "protocol_score": 0.934,
    "protocol_scores": {"LTE": 0.934, "5G": 0.05, "WiFi": 0.016},
    "modulation": "QPSK",
    "modulation_score": 0.6,
    "snr_db": -5.0,
    "snr_db_score": 0.4,
}


class Memory:
    """A recording in memory that counts the samples read."""

    sampling_rate = RATE

    def __init__(self, iq):
        self.iq, self.num_samples, self.num_read = iq, len(iq), 0

    def read(self, start, count):
        assert 0 <= start and start + count <= self.num_samples
        self.num_read += count
        return self.iq[start : start + count]


def test_tones_are_drawn_at_their_time_and_frequency():
    iq = 1e-3 * np.exp(0.1j * np.arange(100_000)).astype(np.complex64)
    iq[50_000:] += np.exp(2j * np.pi * 0.25 * np.arange(50_000))  # a quarter of the rate, in the second half
    power_db = display_spectrogram(Memory(iq), num_rows=100, fft_size=64)
    assert power_db.shape == (100, 64)
    column = 32 + 16
    assert (power_db[51:].argmax(axis=1) == column).all()
    assert (power_db[:49].argmax(axis=1) == 32 + 1).all()  # 0.1 rad a sample is 1.02 bins
    assert power_db[51:, column].min() > power_db[:49, column].max() + 40


def test_memory_does_not_grow_with_the_recording(noise):
    short, long = Memory(noise(100_000)), Memory(noise(1_000_000))
    for recording in (short, long):
        display_spectrogram(recording, num_rows=10, fft_size=64, max_looks=4)
    assert short.num_read == long.num_read == 10 * 4 * 64


@pytest.mark.parametrize("num_samples", [2, 3, 100, 300, 5000])
def test_short_recordings_can_be_drawn(num_samples, noise):
    power_db = display_spectrogram(Memory(noise(num_samples)))
    assert np.isfinite(power_db).all()
    draw([Picture(power_db, num_samples / RATE, RATE)])


def test_silence_is_drawn_and_empty_input_refused():
    assert np.isfinite(display_spectrogram(Memory(np.zeros(1000, np.complex64)))).all()
    with pytest.raises(ValueError, match="1 sample"):
        display_spectrogram(Memory(np.ones(1, np.complex64)))
    with pytest.raises(ValueError, match="nothing to draw"):
        draw([])


def test_axes_are_physical(tmp_path, noise, write_sigmf):
    recording = open_recording(write_sigmf(tmp_path / "capture", noise(5000)))
    figure = draw([picture_of(recording, VERDICT)])
    spectrogram, scores = (axis for axis in figure.axes if axis.get_label() != "<colorbar>")
    assert spectrogram.get_images()[0].get_extent() == [-0.5, 0.5, 5.0, 0]  # MHz; ms, time down
    assert "2,412 MHz" in spectrogram.get_xlabel() and "ms" in spectrogram.get_ylabel()
    assert spectrogram.get_title(loc="left") == "capture"
    assert spectrogram.texts[0].get_text() == describe(VERDICT)
    bars = dict(zip([label.get_text() for label in scores.get_yticklabels()], scores.patches, strict=True))
    assert {name: bar.get_width() for name, bar in bars.items()} == VERDICT["protocol_scores"]


def test_many_recordings_make_a_grid(noise):
    power_db = display_spectrogram(Memory(noise(3000)), num_rows=8, fft_size=8)
    verdicts = [VERDICT, {"protocol": None, "protocol_score": 0.0, "verdict": "no signal"}, {}, VERDICT]
    figure = draw([Picture(power_db, 1e-3, RATE, title=str(i), verdict=v) for i, v in enumerate(verdicts)])
    assert len(figure.subfigs) == 6  # two rows of three
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    assert stream.getvalue().startswith(b"\x89PNG")


def test_names_and_labels_are_no_formulas(noise):
    power_db = display_spectrogram(Memory(noise(3000)), num_rows=8, fft_size=8)
    answer = {"protocol": "$_^{$", "protocol_score": 0.5}
    carrier = answer | {"center_hz": 0.0, "bandwidth_hz": 1e5}
    for said in ({"verdict": answer}, {"carriers": [carrier]}):
        draw([Picture(power_db, 1e-3, RATE, title="$_^{$", **said)]).savefig(io.BytesIO(), format="png")


def test_verdicts_are_put_into_words():
    assert describe(VERDICT) == "LTE 93 %, QPSK 60 %, SNR -5 dB 40 %"
    assert describe({"protocol": None, "protocol_score": 0.0, "verdict": "no signal"}) == "no signal"
    assert describe({}) == ""
    for found in (True, None):
        assert describe({**VERDICT, "symbols_found": found}) == describe(VERDICT)
    assert describe({**VERDICT, "symbols_found": False}) == f"{describe(VERDICT)}, no symbols found"
    assert describe({**VERDICT, "also_found": {}}) == describe({**VERDICT, "also_found": None}) == describe(VERDICT)
    others = {"WiFi": 1.0, "5G": 0.0625}
    assert describe({**VERDICT, "also_found": others}) == f"{describe(VERDICT)}, also WiFi, 5G 6.2 %"


def test_pyplot_is_not_imported():
    # Only this file is run, because importing the package would import PyTorch, which is slow.
    program = "import runpy, sys; runpy.run_path(sys.argv[1]); assert 'matplotlib.pyplot' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", program, plotting.__file__]).returncode == 0


def test_segments_are_drawn_beside_the_spectrogram():
    values = np.random.default_rng(0).normal(size=(2, 16, 20))
    values[:, :4] = np.nan  # hidden
    columns = {"seen": values, "sent": np.tile(np.arange(20) // 5, (2, 16, 1))}
    figure = draw_segments(columns, ("nothing", "WiFi", "LTE", "5G"), duration_s=10e-3, bandwidth_hz=20e6)
    figure.canvas.draw()
    axes = figure.get_axes()
    assert len(axes) == 4 and axes[0].get_title(loc="left") == "seen"
    assert axes[3].get_xlabel() == "frequency [MHz]" and axes[3].get_ylim() == (10.0, 0.0)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["nothing", "WiFi", "LTE", "5G"]
    colors = axes[1].images[0]
    assert colors.cmap(colors.norm(2))[:3] == pytest.approx(to_rgb(PROTOCOL_COLORS["LTE"]), abs=0.01)


def test_samples_that_are_not_finite_are_refused(tmp_path, noise):
    iq = noise(5000)
    iq[2500] = np.nan
    np.save(tmp_path / "broken.npy", iq)
    with pytest.raises(ValueError, match="NaN or infinite"):
        display_spectrogram(open_recording(tmp_path / "broken.npy", sampling_rate=RATE))


def test_labels_of_adjacent_carriers_do_not_overlap(noise):
    carriers = [{**VERDICT, "center_hz": center, "bandwidth_hz": 50e3} for center in (60e3, 0.0, -60e3)]
    picture = Picture(display_spectrogram(Memory(noise(5000))), 5e-3, RATE, carriers=carriers)
    figure = draw([picture])
    figure.canvas.draw()
    (axis,) = [axis for axis in figure.subfigs[0].axes if axis.get_images()]
    boxes = [text.get_window_extent() for text in axis.texts if "LTE" in text.get_text()]
    assert len(boxes) == 3
    assert not any(one.overlaps(other) for place, one in enumerate(boxes) for other in boxes[:place])


def test_carriers_are_drawn_with_edges_and_labels(noise):
    carriers = [{**VERDICT, "center_hz": 2.4001e9, "bandwidth_hz": 200e3}]
    picture = Picture(display_spectrogram(Memory(noise(5000))), 5e-3, RATE, 2.4e9, carriers=carriers)
    (axis,) = [axis for axis in draw([picture]).subfigs[0].axes if axis.get_images()]
    edges = [line.get_xdata()[0] for line in axis.get_lines()]
    assert edges == pytest.approx([0.0, 0.2])
    assert {to_rgb(line.get_color()) for line in axis.get_lines()} == {to_rgb(PROTOCOL_COLORS["LTE"])}
    (text,) = [text for text in axis.texts if "LTE" in text.get_text()]
    assert text.get_position()[0] == pytest.approx(0.1)
    assert text.get_text().splitlines() == ["LTE 93 %", "QPSK 60 %", "SNR -5 dB 40 %"]
