"""A Gradio Space that identifies the signals in uploaded recordings.

    pip install '.[demo]'
    python examples/space/app.py

Uploads stay on the machine that runs this; nothing is sent anywhere.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

try:
    import gradio as gr
except ModuleNotFoundError as error:
    raise SystemExit(f"The page needs the extra `demo` ({error}): pip install 'lwm-spectro-hf[demo]'.") from error
from matplotlib.figure import Figure
from transformers import pipeline

import lwm_spectro_hf
from lwm_spectro_hf.data.bands import carriers_of
from lwm_spectro_hf.data.recordings import SEARCHED, SELF_DESCRIBING, Recording, open_recording
from lwm_spectro_hf.plotting import draw, picture_of
from lwm_spectro_hf.resources import demo_recordings

LONGEST_S = 0.2  # analyzed of a recording at most: a Space has two cores
SAMPLE_TYPES = ["", "cf32", "ci16", "ci8", "cu8"]
TEXT = """
# LWM-Spectro
What is in a recording of complex samples? SigMF (both files of a pair, or an archive), `.wav` (I and Q), `.npy`,
`.mat`, or raw samples with their type and rate. Only the first {limit:g} ms are analysed.
"""


@cache
def load(task: str, folder: Path) -> Any:
    """A pipeline, created once and cached."""
    return pipeline(task, model=str(folder))


@contextmanager
def opened(files: list[str] | None, dtype: str, rate_msps: float | None) -> Iterator[Recording]:
    """The first `LONGEST_S` of the recording among the uploaded files.

    Raises:
        gr.Error: If there is not exactly one, or it cannot be read; the message is shown to the user.
    """
    found = [Path(file) for file in files or [] if Path(file).suffix.lower() in SEARCHED or dtype]
    found = [file for file in found if file.suffix != ".sigmf-data"]
    if not found and any(Path(file).suffix == ".sigmf-data" for file in files or []):
        raise gr.Error("Only the samples of a SigMF recording were uploaded. Upload its .sigmf-meta with them.")
    if len(found) != 1:
        raise gr.Error(
            f"{len(found)} recordings were uploaded. Expected one: {', '.join(sorted(SEARCHED))}, or raw samples and "
            "their type."
        )
    knows_itself = found[0].suffix.lower() in SELF_DESCRIBING
    with tempfile.TemporaryDirectory() as folder:
        # Each upload is in a folder of its own, but both files of a pair must be in the same one.
        names = [Path(file).name for file in files or []]
        if len(set(names)) < len(names):
            raise gr.Error(f"Two of the uploaded files have the same name ({', '.join(sorted(names))}). Rename one.")
        for file in map(Path, files or []):
            (Path(folder) / file.name).symlink_to(file.resolve())
        try:
            recording = open_recording(
                Path(folder) / found[0].name,
                dtype=None if knows_itself else dtype or None,
                sampling_rate=rate_msps * 1e6 if rate_msps else None,
            )
            if recording.sampling_rate is None:
                raise ValueError("The recording does not give its sampling rate. Enter it in the field for it.")
            longest = round(LONGEST_S * recording.sampling_rate)
            yield replace(recording, num_samples=min(recording.num_samples, longest))
        except (OSError, ValueError) as error:  # also errors in the body of the caller's `with`
            raise gr.Error(str(error).replace(f"{folder}/", "")) from None


def classify(files: list[str] | None, dtype: str, rate_msps: float | None) -> tuple[dict[str, float], Figure, dict]:
    """Scores of the protocols, a picture with the verdict, and the complete verdict."""
    pipe = load("iq-classification", lwm_spectro_hf.default_checkpoint())
    with opened(files, dtype, rate_msps) as recording:
        verdict = pipe(recording)
        return verdict["protocol_scores"], draw([picture_of(recording, verdict)]), verdict


def segment(files: list[str] | None, dtype: str, rate_msps: float | None) -> tuple[list[list], Figure]:
    """The verdict on each carrier as rows of a table, and a picture of the band with its carriers."""
    find = load("iq-segmentation", lwm_spectro_hf.default_segmenter())
    tell = load("iq-classification", lwm_spectro_hf.default_checkpoint())
    with opened(files, dtype, rate_msps) as recording:
        answer, picture = find(recording), picture_of(recording)
        bands = carriers_of(recording, answer)
        verdicts = [tell(band) for band in bands]
    picture.segments = answer["labels"]
    picture.segment_names = [name for _, name in sorted(find.model.config.id2label.items())]
    picture.carriers = [{**band.place, **verdict} for band, verdict in zip(bands, verdicts, strict=True)]
    rows = [
        [
            round(carrier["center_hz"] / 1e6, 2),
            round(carrier["bandwidth_hz"] / 1e6, 2),
            *(carrier[name] for name in ("protocol", "modulation", "snr_db", "mobility")),
        ]
        for carrier in picture.carriers
    ]
    return rows, draw([picture])


def build() -> gr.Blocks:
    """The page."""
    shipped = sorted(demo_recordings().glob("*.sigmf-meta"))
    pairs = [[[str(meta), str(meta.with_suffix(".sigmf-data"))]] for meta in shipped]
    with gr.Blocks(title="LWM-Spectro") as page:
        gr.Markdown(TEXT.format(limit=1e3 * LONGEST_S))
        with gr.Row():
            with gr.Column(scale=1):
                files = gr.File(label="recording", file_count="multiple", type="filepath")
                dtype = gr.Dropdown(SAMPLE_TYPES, value="", label="type of raw samples")
                rate = gr.Number(label="sampling rate, if the file does not give it [Msps]", value=None)
                inputs = [files, dtype, rate]
                tell, find = gr.Button("What is it?", variant="primary"), gr.Button("Who sends where?")
                gr.Examples(
                    pairs,
                    inputs=[files],
                    label="recordings that ship with the package",
                    example_labels=[meta.stem for meta in shipped],
                )
            with gr.Column(scale=2):
                with gr.Tab("verdict"):
                    scores, picture = gr.Label(label="protocol"), gr.Plot(show_label=False)
                    everything = gr.JSON(label="the whole verdict")
                with gr.Tab("band"):
                    header = ["middle [MHz]", "width [MHz]", "protocol", "modulation", "SNR [dB]", "mobility"]
                    carriers, band = gr.Dataframe(headers=header, interactive=False), gr.Plot(show_label=False)
        tell.click(classify, inputs, [scores, picture, everything])
        find.click(segment, inputs, [carriers, band])
    return page


if __name__ == "__main__":
    build().launch(allowed_paths=[str(demo_recordings())])
