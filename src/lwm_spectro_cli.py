"""Argument parser of the command `lwm-spectro`; the commands are implemented in `lwm_spectro_hf.cli`.

This module is outside the package, because importing the package imports PyTorch and Transformers: without them,
`--help` and a mistyped option are answered at once.
"""

import argparse
import re
from importlib.metadata import PackageNotFoundError, version

INPUTS = """\
inputs:
  SigMF recordings (.sigmf-meta, .sigmf-data or their common name), .wav files with I and Q, .npy arrays (complex, or
  real of shape (n, 2)), .mat files (one complex variable, and its rate as fs), raw samples (.cf32, .ci16 ..., or any
  name with --dtype), and folders of these. For .npy and raw files, give --sampling-rate.
"""

CLASSIFY = (
    "Classify recordings: the protocol, and whatever else the model has heads for.",
    INPUTS
    + """
examples:
  lwm-spectro classify                                   the recordings that ship with the package
  lwm-spectro classify capture.sigmf-meta --plot capture.png
  lwm-spectro classify captures/ --json > verdicts.jsonl
  lwm-spectro classify long.sigmf-meta --window-ms 100 --csv --output long.csv
  lwm-spectro classify long.sigmf-meta --max-segments 50        50 pieces of it, as all of it would take minutes
  lwm-spectro classify band.sigmf-meta --carriers               each carrier of a wide band separately
  lwm-spectro classify band.sigmf-meta --band 2.437e9 20e6      one part of it
  lwm-spectro classify dump.bin --dtype ci16 --sampling-rate 20e6
  lwm-spectro classify capture.npy --sampling-rate 1.92e6 --model ./my-checkpoint --device cpu
""",
)
EMBED = (
    "Write the embedding of each recording, or of each window.",
    INPUTS
    + """
  Choose the format with --npz, --json or --csv. The embedding of silence is NaN (null in JSON).

examples:
  lwm-spectro embed captures/ --npz embeddings.npz       arrays embeddings, file, start_s, duration_s
  lwm-spectro embed capture.sigmf-meta --window-ms 10 --csv --output embeddings.csv
""",
)
SEGMENT = (
    "Find the WiFi, LTE and 5G carriers in a wide band: where they are, and when they transmit.",
    INPUTS
    + """
  One row per carrier: protocol, center and width of its band, and the share of time in which it transmits.

examples:
  lwm-spectro segment                                    the recordings that ship with the package
  lwm-spectro segment band.sigmf-meta --plot band.png    also draw the label of each frame and bin
  lwm-spectro segment captures/ --json > carriers.jsonl  one JSON object per recording
  lwm-spectro segment dump.bin --dtype ci16 --sampling-rate 61.44e6 --csv
""",
)
PLOT = (
    "Draw spectrograms with axes in MHz and ms, and the model's verdicts.",
    INPUTS
    + """
examples:
  lwm-spectro plot captures/ --output captures.png
  lwm-spectro plot capture.sigmf-meta --no-verdict --output capture.png
""",
)
CONVERT = (
    "Import published weights (.pth) as a checkpoint in safetensors. No code in them is executed.",
    """\
examples:
  lwm-spectro convert wi-lab/lwm-spectro --output lwm-spectro        from the Hub: experts, router, task
  lwm-spectro convert LTE_expert.pth --output lte-expert             one expert
  lwm-spectro convert LTE_expert.pth WiFi_expert.pth 5G_expert.pth checkpoint.pth --output lwm-spectro
""",
)
GENERATE = (
    "Generate labelled WiFi, LTE and 5G recordings: conformant waveforms through moving, ray-traced channels.",
    """\
Parameters that are not given are drawn from the recipe, evenly over all its values. Formats:
  parquet   spectrograms, I/Q or both, in shards that datasets.load_dataset(folder) reads; splits by city; repeat
            the command to resume a build that was stopped
  sigmf     one transmission per file, whole frames at the carrier's own rate, with everything that a third-party
            receiver needs to know (cell identity, RNTI, rate ...) in the annotation
  npz       one NumPy archive

examples:
  lwm-spectro generate --num 3000 --out spectrograms
  lwm-spectro generate --protocol LTE --modulation 64QAM --code-rate 0.5 --snr-db 20 --mobility vehicular \\
      --scenario munich --num 100 --seed 0 --out lte-64qam
  lwm-spectro generate --protocol WiFi --snr-db 30 --scenario none --num 8 --format sigmf --out wifi-files
  lwm-spectro generate --recipe my-recipe.yaml --num 100000 --processes 8 --out big
  lwm-spectro generate --preset blind --protocol 5G --snr-db 0 10 20 --num 500 --format npz --out nr.npz

  A recipe file holds fields of lwm_spectro_hf.data.recipe.Recipe, for instance `preset: mixed` and `snrs_db: [0, 10]`.
""",
)
EXPORT = (
    "Write a checkpoint as a self-contained folder for the Hub, code included.",
    """\
examples:
  lwm-spectro export ./my-checkpoint --output ./for-the-hub
  python -c "from transformers import AutoModel; AutoModel.from_pretrained('./for-the-hub', trust_remote_code=True)"
""",
)
PUBLISH = (
    "Upload an exported folder to the Hub. Log in first: hf auth login.",
    """\
examples:
  lwm-spectro publish ./for-the-hub my-name/my-model --private
""",
)


def positive(text: str) -> float:
    """Argument type: a finite number above zero."""
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 (20 million: 20e6)")
    return number


def count(text: str) -> int:
    """Argument type: a whole number above zero."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the whole command."""
    parser = argparse.ArgumentParser(
        prog="lwm-spectro",
        description="LWM-Spectro, a foundation model for wireless spectrograms: what signals are in a recording?",
        epilog="Each command has examples: lwm-spectro classify --help",
    )
    try:
        parser.add_argument("--version", action="version", version=version("lwm-spectro-hf"))
    except PackageNotFoundError:  # run from a checkout that is not installed
        pass
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    classify = _command(commands, "classify", CLASSIFY)
    _add_reading(classify)
    _add_windows(classify)
    _add_formats(classify)
    classify.add_argument(
        "--carriers",
        action="store_true",
        help="find the carriers as `segment` does and classify each separately, or the whole band if there is none",
    )
    classify.add_argument("--plot", metavar="FILE", help="also draw the recordings with their verdicts")

    segment = _command(commands, "segment", SEGMENT)
    _add_files(segment)
    _add_model(segment, "pieces")
    _add_formats(segment)
    segment.add_argument("--plot", metavar="FILE", help="also draw the recordings and their carriers")

    embed = _command(commands, "embed", EMBED)
    _add_reading(embed)
    _add_windows(embed)
    _add_formats(embed).add_argument("--npz", metavar="FILE", help="write NumPy arrays to FILE")

    plot = _command(commands, "plot", PLOT)
    _add_reading(plot)
    plot.add_argument("--output", metavar="PNG", default="lwm-spectro.png", help="file to write (%(default)s)")
    plot.add_argument("--no-verdict", action="store_true", help="draw the spectrograms only; no model is loaded")

    _add_generating(_command(commands, "generate", GENERATE))

    convert = _command(commands, "convert", CONVERT)
    convert.add_argument("sources", nargs="+", help=".pth files, a folder of them, or the name of a Hub repository")
    _add_folder(convert)
    convert.add_argument("--no-cls-token", action="store_true", help="do not prepend the constant CLS token")
    convert.add_argument("--num-attention-heads", type=count, default=8, metavar="N", help="heads (%(default)s)")
    convert.add_argument(
        "--input-shape",
        type=count,
        nargs=2,
        metavar=("ROWS", "COLUMNS"),
        help="shape of a spectrogram, if it is not square",
    )
    convert.add_argument("--bundle", metavar="FILE", help="the task bundle to use, if there are several")
    convert.add_argument(
        "--untrained-router",
        action="store_true",
        help="join experts without a bundle, with a router that is not trained",
    )
    convert.add_argument("--revision", help="branch, tag or commit of the Hub repository")

    export = _command(commands, "export", EXPORT)
    export.add_argument("model", help="folder written by save_pretrained or `lwm-spectro convert`")
    _add_folder(export)

    publish = _command(commands, "publish", PUBLISH)
    publish.add_argument("folder", help="folder written by `lwm-spectro export`")
    publish.add_argument("repo_id", help="repository on the Hub: owner/name")
    publish.add_argument("--private", action="store_true", help="make a new repository private")
    publish.add_argument("--revision", help="branch to upload to")
    publish.add_argument("--message", default="Upload the model", help="commit message (%(default)s)")
    return parser


def _command(commands, name: str, texts: tuple[str, str]) -> argparse.ArgumentParser:
    summary, epilog = texts
    command = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # Without this, Python before 3.14 takes -5e6 for an option, though not -5000000.
    command._negative_number_matcher = re.compile(r"-\.?\d")
    command.add_argument("--debug", action="store_true", help="show where an error comes from")
    return command


def _add_reading(command: argparse.ArgumentParser):
    _add_files(command)
    _add_model(command, "views")
    command.add_argument(
        "--band",
        type=float,
        nargs=2,
        metavar=("CENTER", "WIDTH"),
        help="tune to a part of the band [Hz]; its center is absolute if the recording gives its center frequency, "
        "else relative to the center of the recording, e.g. -5e6 10e6",
    )
    command.add_argument("--blind", action="store_true", help="do not search for symbols of WiFi, LTE and 5G")
    command.add_argument(
        "--max-segments",
        type=count,
        metavar="N",
        help="process only N pieces of 20 ms of each recording or window, evenly spread (default: all of it)",
    )


def _add_files(command: argparse.ArgumentParser):
    command.add_argument("inputs", nargs="*", help="recordings and folders (none: those that ship with the package)")
    command.add_argument("--dtype", help="sample type of raw files: cf32, ci16, ci8 ...")
    command.add_argument(
        "--sampling-rate", type=positive, metavar="HZ", help="of files that do not contain it, e.g. 20e6"
    )
    command.add_argument("--channel", type=int, help="channel to read, if a recording has several; counted from 0")


def _add_model(command: argparse.ArgumentParser, unit: str):
    command.add_argument("--model", help="checkpoint folder or Hub repository (default: the one in the package)")
    command.add_argument("--device", help="cpu, cuda, cuda:1, mps ... (default: an accelerator if there is one)")
    command.add_argument(
        "--batch-size", type=count, default=16, metavar="N", help=f"{unit} processed at once (%(default)s)"
    )


def _add_generating(command: argparse.ArgumentParser):
    command.add_argument("--out", metavar="PATH", required=True, help="folder to write; a file for npz")
    command.add_argument("--num", type=count, default=1000, metavar="N", help="number of recordings (%(default)s)")
    command.add_argument(
        "--num-test",
        type=int,
        metavar="N",
        help="number of recordings in the held-out city, the test split (N / 10; none with --recipe or --scenario)",
    )
    command.add_argument("--seed", type=int, default=0, help="the same seed gives the same recordings (%(default)s)")
    command.add_argument("--format", choices=["parquet", "sigmf", "npz"], default="parquet", help="(%(default)s)")
    command.add_argument(
        "--content",
        nargs="+",
        choices=["spectrogram", "iq"],
        help="what parquet and npz files hold (spectrogram)",
    )
    command.add_argument("--processes", type=count, metavar="N", help="workers, for parquet (1)")
    command.add_argument("--figures", action="store_true", help="also draw what was generated, into PATH/figures")
    start = command.add_mutually_exclusive_group()
    start.add_argument(
        "--preset", choices=["paper", "mixed", "blind", "native"], help="recipe to start from (paper; sigmf: native)"
    )
    start.add_argument("--recipe", metavar="FILE", help="recipe to start from, YAML or JSON")
    command.add_argument("--protocol", nargs="+", choices=["WiFi", "LTE", "5G"], help="protocols (all three)")
    command.add_argument("--modulation", nargs="+", metavar="NAME", help="BPSK, QPSK, 16QAM, 64QAM or 256QAM")
    command.add_argument(
        "--code-rate", nargs="+", type=float, metavar="R", help="code rates of the user data, e.g. 0.5"
    )
    command.add_argument(
        "--snr-db", nargs="+", type=float, metavar="DB", help="SNR in the occupied band; inf: no noise"
    )
    command.add_argument("--mobility", nargs="+", choices=["static", "pedestrian", "vehicular"])
    command.add_argument(
        "--scenario", nargs="+", metavar="NAME", help="cities or folders, TDL-A to TDL-E, exponential, or none"
    )
    command.add_argument("--num-rb", nargs="+", type=count, metavar="N", help="width of LTE and 5G [resource blocks]")
    command.add_argument("--spacing-khz", type=int, choices=[15, 30], help="subcarrier spacing of 5G")
    command.add_argument("--duration-ms", type=positive, metavar="MS", help="length of native recordings (20)")
    command.add_argument(
        "--receiver", choices=["synchronous", "listening", "blind", "native"], help="kind of receiver"
    )
    command.add_argument(
        "--full-load", type=float, metavar="SHARE", help="share of recordings with a saturated transmitter, 0 to 1"
    )


def _add_windows(command: argparse.ArgumentParser):
    command.add_argument("--window-ms", type=positive, metavar="MS", help="one answer for each window of this length")


def _add_formats(command: argparse.ArgumentParser):
    command.add_argument("--output", metavar="FILE", help="write to FILE instead of the terminal")
    formats = command.add_mutually_exclusive_group()
    formats.add_argument("--json", action="store_true", help="one JSON object per line")
    formats.add_argument("--csv", action="store_true", help="comma-separated values")
    return formats


def _add_folder(command: argparse.ArgumentParser):
    command.add_argument(
        "--output", metavar="FOLDER", required=True, help="folder to write; it appears complete or not at all"
    )
    command.add_argument("--overwrite", action="store_true", help="replace a folder that has files in it")


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv (`list[str]`, *optional*): Arguments; defaults to those of the process.

    Returns:
        `int`: 0 on success; 2 if any input or option is wrong, even if others are right; 1 for a failure that is not
        the user's mistake; 130 if interrupted.
    """
    arguments = build_parser().parse_args(argv)
    from lwm_spectro_hf import cli

    return cli.run(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
