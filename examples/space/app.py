"""A Gradio Space: recordings in, what is in them out.

    pip install 'lwm-spectro-hf[demo]'
    python examples/space/app.py

Uploads stay on the machine that runs this; nothing is sent anywhere.
"""

from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr
from matplotlib.figure import Figure
from transformers import pipeline

import lwm_spectro_hf
from lwm_spectro_hf.data.recordings import RAW_SUFFIXES, Recording, open_recording
from lwm_spectro_hf.plotting import draw, picture_of
from lwm_spectro_hf.resources import demo_recordings

LONGEST_S = 0.2  # that is looked at: a Space has two cores
SAMPLE_TYPES = ["", "cf32", "ci16", "ci8", "cu8"]
TEXT = """
# LWM-Spectro
What is in a recording of complex samples? SigMF (both files of a pair, or an archive), `.npy`, or raw samples with
their type and rate. The first {limit:g} ms are looked at.
"""


@cache
def load(task: str, folder: Path) -> Any:
    """A pipeline, made once."""
    return pipeline(task, model=str(folder))


def opened(files: list[str] | None, dtype: str, rate_msps: float | None) -> Recording:
    """The recording among uploaded files.

    Raises:
        gr.Error: If there is none, or it cannot be read; the message is shown to the user.
    """
    wanted = (".sigmf-meta", ".sigmf", ".npy", *sorted(RAW_SUFFIXES))
    found = [Path(file) for file in files or [] if Path(file).suffix in wanted or dtype]
    found = [file for file in found if file.suffix != ".sigmf-data"]
    if len(found) != 1:
        raise gr.Error(
            f"{len(found)} recordings were uploaded. Expected one: {', '.join(wanted)}, or raw with a type."
        )
    knows_itself = found[0].suffix in (".sigmf-meta", ".sigmf", ".npy")
    try:
        recording = open_recording(
            found[0],
            dtype=None if knows_itself else dtype or None,
            sampling_rate=rate_msps * 1e6 if rate_msps else None,
        )
        if recording.sampling_rate is None:
            raise ValueError("The recording does not say its sampling rate. Expected it in the field beside.")
        return recording
    except (OSError, ValueError) as error:
        raise gr.Error(str(error)) from None


def start_of(recording: Recording) -> dict[str, Any]:
    """As much of it as is looked at, as pipelines take it."""
    iq = recording.read(0, min(recording.num_samples, round(LONGEST_S * recording.sampling_rate)))
    return {"iq": iq, "sampling_rate": recording.sampling_rate}


def classify(files: list[str] | None, dtype: str, rate_msps: float | None) -> tuple[dict[str, float], Figure, dict]:
    """Scores of the protocols, a picture with the verdict, and all of the verdict."""
    recording = opened(files, dtype, rate_msps)
    verdict = load("iq-classification", lwm_spectro_hf.default_checkpoint())(start_of(recording))
    return verdict["protocol_scores"], draw([picture_of(recording, verdict)]), verdict


def segment(files: list[str] | None, dtype: str, rate_msps: float | None) -> tuple[list[list], Figure]:
    """Carriers as rows of a table, and a picture of the band and who sends in it."""
    recording = opened(files, dtype, rate_msps)
    pipe = load("iq-segmentation", lwm_spectro_hf.default_segmenter())
    answer = pipe(start_of(recording))
    picture = picture_of(recording)
    picture.segments = answer["labels"]
    picture.segment_names = [name for _, name in sorted(pipe.model.config.id2label.items())]
    rows = [
        [
            carrier["label"],
            round((carrier["center_hz"] + (recording.center_frequency_hz or 0)) / 1e6, 2),
            round(carrier["bandwidth_hz"] / 1e6, 2),
            round(100 * carrier["share_of_time"]),
        ]
        for carrier in answer["carriers"]
    ]
    return rows, draw([picture])


def build() -> gr.Blocks:
    """The page."""
    shipped = demo_recordings()
    examples = [
        [[str(meta), str(meta.with_suffix(".sigmf-data"))], "", None] for meta in sorted(shipped.glob("*.sigmf-meta"))
    ]
    with gr.Blocks(title="LWM-Spectro") as page:
        gr.Markdown(TEXT.format(limit=1e3 * LONGEST_S))
        with gr.Row():
            with gr.Column(scale=1):
                files = gr.File(label="recording", file_count="multiple", type="filepath")
                dtype = gr.Dropdown(SAMPLE_TYPES, value="", label="type of raw samples")
                rate = gr.Number(label="sampling rate, where the file does not say it [Msps]", value=None)
                inputs = [files, dtype, rate]
                tell, find = gr.Button("What is it?", variant="primary"), gr.Button("Who sends where?")
                gr.Examples(examples, inputs=inputs, label="recordings that ship with the package")
            with gr.Column(scale=2):
                with gr.Tab("verdict"):
                    scores, picture = gr.Label(label="protocol"), gr.Plot(show_label=False)
                    everything = gr.JSON(label="all of the verdict")
                with gr.Tab("band"):
                    header = ["sends", "middle [MHz]", "width [MHz]", "of the time [%]"]
                    carriers, band = gr.Dataframe(headers=header, interactive=False), gr.Plot(show_label=False)
        tell.click(classify, inputs, [scores, picture, everything])
        find.click(segment, inputs, [carriers, band])
    return page


if __name__ == "__main__":
    build().launch(allowed_paths=[str(demo_recordings())])
