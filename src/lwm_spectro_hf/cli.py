"""Implementation of the command `lwm-spectro`. Its parser, in `lwm_spectro_cli`, answers `--help` without PyTorch."""

import argparse
import csv
import io
import json
import os
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from tqdm import tqdm

from lwm_spectro_cli import main  # noqa: F401  (the entry point, under the name users expect)

from .data.bands import Band, carriers_of
from .data.recordings import SEARCHED, SELF_DESCRIBING, WITH_CHANNELS, Recording, open_recording
from .files import whole_file
from .resources import default_checkpoint, default_segmenter, demo_recordings
from .scripting import usable_device, without_wrapping

USER_ERRORS = (OSError, ValueError, ImportError)
NO_SYMBOLS = "* no symbols of this protocol were found: another kind of signal, or too faint or too short to find them"
ALSO_FOUND = (
    "also: symbols of these protocols were found, too (in this share of the recording); the rest of the row is about "
    "one signal. --carriers classifies each carrier by itself, --window-ms each stretch of time"
)
PLACE = ("center_hz", "bandwidth_hz")  # place of a carrier
STRETCHES = 2  # stretches of time, one after the other, that the segmentation network sees in one segment
CARRIER_COLUMNS = ("file", "label", *PLACE, "share_of_time")


def run(arguments: argparse.Namespace) -> int:
    """Run a parsed command.

    Args:
        arguments (`argparse.Namespace`): From the parser of `lwm_spectro_cli`.

    Returns:
        `int`: The exit code.
    """
    if sys.stdout is None:  # the parent process closed it
        sys.stdout = open(os.devnull, "w", encoding="utf-8")
    try:
        code = COMMANDS[arguments.command](arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader of a pipe has closed it. Python would report that again when it closes the standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if arguments.debug:
            raise
        error = without_wrapping(error)
        _complain(error)
        return _exit_code(error)


def classify(arguments: argparse.Namespace) -> int:
    """Write verdicts as a table, JSON lines or CSV, and a picture if `--plot` is given."""
    if arguments.plot and arguments.window_ms:
        raise ValueError("--plot shows one verdict for each recording: leave out --window-ms, or plot separately.")
    files = _Files(arguments)
    pictures = []

    def records() -> Iterator[dict]:
        pipe = _load_pipeline(arguments, heads=True)
        find = _load_segmenter(arguments, str(default_segmenter())) if arguments.carriers else None
        for path in files.paths:
            with files.survived(path):
                recording = files.open(path)
                carriers = [] if find is None else carriers_of(recording, files.look_at(recording, find))
                heard = []
                for band in carriers or [recording]:
                    # If no carrier was found, the whole band is classified, and its place is unknown.
                    nowhere = dict.fromkeys(PLACE) if arguments.carriers else {}
                    place = band.place if isinstance(band, Band) else nowhere
                    for answer in files.hear(band, pipe):
                        yield _record(path, answer, place=place)
                    heard.append({**place, **answer})
                if arguments.plot:
                    from .plotting import picture_of

                    drawn = {"carriers": heard} if carriers else {"verdict": answer}
                    pictures.append(picture_of(recording, **drawn))

    if arguments.json:
        lines = _json_lines(records())
    elif arguments.csv:
        lines = _csv_lines(records())
    else:
        lines = _table_lines(records(), files.paths, windowed=bool(arguments.window_ms))
    _write_lines(lines, arguments.output)
    if pictures:
        _write_picture(pictures, arguments.plot)
    return files.exit_code


def segment(arguments: argparse.Namespace) -> int:
    """Write the carriers in recordings as a table, JSON lines or CSV, and a picture if `--plot` is given."""
    from .plotting import picture_of

    files, pictures = _Files(arguments), []

    def heard() -> Iterator[tuple[Path, list[dict]]]:
        pipe = _load_segmenter(arguments, str(arguments.model or default_segmenter()))
        names = [name for _, name in sorted(pipe.model.config.id2label.items())]
        for path in files.paths:
            with files.survived(path):
                recording = files.open(path)
                answer = files.look_at(recording, pipe)
                around_hz = recording.center_frequency_hz or 0.0
                yield path, [{**found, "center_hz": found["center_hz"] + around_hz} for found in answer["carriers"]]
                if arguments.plot:
                    picture = picture_of(recording)
                    picture.segments, picture.segment_names = answer["labels"], names
                    pictures.append(picture)

    if arguments.json:
        lines = _json_lines({"file": str(path), "carriers": carriers} for path, carriers in heard())
    elif arguments.csv:
        rows = ({"file": str(path), **carrier} for path, carriers in heard() for carrier in carriers)
        lines = _csv_lines(rows, CARRIER_COLUMNS)
    else:
        lines = _carrier_lines(heard(), files.paths)
    _write_lines(lines, arguments.output)
    if pictures:
        _write_picture(pictures, arguments.plot)
    return files.exit_code


def embed(arguments: argparse.Namespace) -> int:
    """Write embeddings as NumPy arrays, JSON lines or CSV."""
    if not (arguments.npz or arguments.json or arguments.csv):
        raise ValueError("Choose an output format: --npz FILE, --json or --csv.")
    if arguments.npz and arguments.output:
        raise ValueError("--npz already names the output file: leave out --output.")
    files = _Files(arguments)
    pipe = _load_pipeline(arguments)
    config = pipe.model.config
    hidden_size = config.encoder_config.hidden_size

    def records() -> Iterator[dict]:
        for path in files.paths:
            with files.survived(path):
                for answer in files.hear(files.open(path), pipe, return_embedding=True):
                    yield {**_record(path, answer, ()), "embedding": answer["embedding"]}

    def vector(record: dict) -> np.ndarray:
        return np.full(hidden_size, np.nan, np.float32) if record["embedding"] is None else record["embedding"]

    def columns(record: dict) -> dict:
        values = {f"embedding_{index}": value for index, value in enumerate(vector(record).tolist())}
        return {name: value for name, value in record.items() if name != "embedding"} | values

    if arguments.json:
        plain = ({**record, "embedding": _as_list(record["embedding"])} for record in records())
        _write_lines(_json_lines(plain), arguments.output)
    elif arguments.csv:
        _write_lines(_csv_lines(map(columns, records())), arguments.output)
    else:
        rows = list(records())
        arrays = {name: np.array([row[name] for row in rows]) for name in ("file", "start_s", "duration_s")}
        arrays["embeddings"] = np.array([vector(row) for row in rows], np.float32).reshape(-1, hidden_size)
        # Not np.savez: it has a parameter `file` of its own.
        with whole_file(arguments.npz) as stream, zipfile.ZipFile(stream, "w") as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
        _note(f"Wrote {arguments.npz}: {len(rows)} embeddings of {hidden_size} values")
    return files.exit_code


def plot(arguments: argparse.Namespace) -> int:
    """Draw recordings, with verdicts unless `--no-verdict` is given."""
    from .plotting import picture_of

    files = _Files(arguments)
    pipe = None if arguments.no_verdict else _load_pipeline(arguments, heads=True)
    pictures = []
    for path in files.paths:
        with files.survived(path):
            recording = files.open(path)
            pictures.append(picture_of(recording, *([] if pipe is None else files.hear(recording, pipe))))
    if pictures:
        _write_picture(pictures, arguments.output)
    return files.exit_code


def generate(arguments: argparse.Namespace) -> int:
    """Generate recordings into a folder or a file."""
    from .data import builder
    from .data.card import write_card

    recipe = _recipe_of(arguments)
    out, content = Path(arguments.out).expanduser(), tuple(dict.fromkeys(arguments.content or ["spectrogram"]))
    if arguments.format == "parquet":
        splits = builder.splits_by_city(
            recipe,
            arguments.num,
            arguments.num_test,
            add_test=bool(arguments.num_test) or not (arguments.scenario or arguments.recipe),
        )
        builder.build_parquet(out, splits, arguments.seed, contents=content, processes=arguments.processes or 1)
    elif arguments.format == "sigmf":
        builder.write_recordings(out, recipe, arguments.num, arguments.seed)
    else:
        builder.write_arrays(out, recipe, arguments.num, arguments.seed, contents=content)
    if arguments.figures:
        from .data.figures import draw_figures

        folder = (out if out.is_dir() else out.parent) / "figures"
        draw_figures(folder, recipe, arguments.seed)
    if arguments.format == "parquet":
        write_card(out)
    print(out)
    return 0


def _recipe_of(arguments: argparse.Namespace) -> Any:
    """The recipe that the options ask for."""
    from .data.recipe import PROTOCOLS, Recipe, preset

    if arguments.recipe:
        recipe = Recipe.load(arguments.recipe)
    else:
        recipe = preset(arguments.preset or ("native" if arguments.format == "sigmf" else "paper"))
        # A chunk has a single protocol: with few recordings, chunks are smaller, so that all protocols occur.
        num_protocols = len(set(arguments.protocol or recipe.protocols))
        rows = arguments.num // (4 * num_protocols)
        if arguments.format == "parquet" and (arguments.num_test or not arguments.scenario):
            rows = min(rows, (arguments.num_test or arguments.num // 10) // num_protocols)
        recipe = replace(recipe, chunk_size=min(recipe.chunk_size, max(1, rows)))
    widths = dict(recipe.resource_blocks)
    if arguments.num_rb:
        widths["LTE"] = tuple(arguments.num_rb)
        spacings = {spacing for spacing, _ in recipe.resource_blocks.get("5G", ())} or {15, 30}
        widths["5G"] = tuple((spacing, num_rb) for spacing in sorted(spacings) for num_rb in arguments.num_rb)
    if arguments.spacing_khz:
        offered = widths.get("5G", ())
        kept = tuple(width for width in offered if width[0] == arguments.spacing_khz)
        widths["5G"] = kept or tuple((arguments.spacing_khz, num_rb) for _, num_rb in offered)

    def listed(values: list | None) -> tuple | None:
        return tuple(dict.fromkeys(values)) if values else None

    protocols = set(arguments.protocol or PROTOCOLS)  # those of a recipe may be narrower
    receivers = {arguments.receiver} if arguments.receiver else set(recipe.receivers)
    for given, option, has_effect, those in (
        (arguments.num_rb, "--num-rb", protocols & {"LTE", "5G"}, "of LTE or 5G"),
        (arguments.spacing_khz, "--spacing-khz", "5G" in protocols, "of 5G"),
        (arguments.duration_ms, "--duration-ms", "native" in receivers, "with --receiver native"),
        (arguments.num_test, "--num-test", arguments.format == "parquet", "in --format parquet"),
        (arguments.processes, "--processes", arguments.format == "parquet", "in --format parquet"),
        (arguments.content, "--content", arguments.format != "sigmf", "in --format parquet or npz"),
    ):
        if given and not has_effect:
            raise ValueError(f"{option} affects only recordings {those}. Leave it out, or ask for such recordings.")
    return recipe.narrowed(
        protocols=listed(arguments.protocol),
        modulations=listed(arguments.modulation),
        code_rates=listed(arguments.code_rate),
        snrs_db=listed(arguments.snr_db),
        mobilities=listed(arguments.mobility),
        channels=listed(arguments.scenario),
        receivers={arguments.receiver: 1.0} if arguments.receiver else None,
        full_load=arguments.full_load,
        duration_s=arguments.duration_ms and arguments.duration_ms * 1e-3,
        resource_blocks=widths,
    )


def convert(arguments: argparse.Namespace) -> int:
    """Convert published weights to a checkpoint folder."""
    from .hub.published import convert as convert_published

    sources = arguments.sources
    report = convert_published(
        sources[0] if len(sources) == 1 else sources,
        arguments.output,
        use_cls_token=not arguments.no_cls_token,
        num_attention_heads=arguments.num_attention_heads,
        input_shape=tuple(arguments.input_shape) if arguments.input_shape else None,
        bundle=arguments.bundle,
        untrained_router=arguments.untrained_router,
        overwrite=arguments.overwrite,
        **({"revision": arguments.revision} if arguments.revision else {}),
    )
    print(report)
    return 0


def export(arguments: argparse.Namespace) -> int:
    """Export a checkpoint to a folder for the Hub."""
    from .hub.publishing import export as export_folder

    print(export_folder(arguments.model, arguments.output, overwrite=arguments.overwrite))
    return 0


def publish(arguments: argparse.Namespace) -> int:
    """Upload a folder to the Hub."""
    from .hub.publishing import publish as publish_folder

    address = publish_folder(
        arguments.folder,
        arguments.repo_id,
        private=arguments.private,
        revision=arguments.revision,
        commit_message=arguments.message,
    )
    print(address)
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "classify": classify,
    "embed": embed,
    "segment": segment,
    "plot": plot,
    "generate": generate,
    "convert": convert,
    "export": export,
    "publish": publish,
}


class _Files:
    """The recordings to process. A bad one gives an error message and a nonzero exit code, but the others go on."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.exit_code = 0
        self.paths: list[Path] = []
        self.searched: set[Path] = set()  # found in folders, not named one by one
        for option in ("output", "plot", "npz"):  # checked first, before there are results to lose
            if (name := getattr(arguments, option, None)) and Path(name).expanduser().is_dir():
                raise IsADirectoryError(f"--{option} {name} is a folder; expected the name of a file to write.")
        option = "output" if arguments.command == "plot" else "plot"
        if name := getattr(arguments, option, None):
            from matplotlib.figure import Figure

            kinds = Figure().canvas.get_supported_filetypes()
            if Path(name).suffix[1:].lower() not in kinds:
                raise ValueError(f"--{option} {name}: expected a name that ends in .{', .'.join(sorted(kinds))}.")
        for name in arguments.inputs or [demo_recordings()]:
            path = Path(name).expanduser()
            found = _recordings_in(path) if path.is_dir() else [path]
            self.searched |= set(found) if path.is_dir() else set()
            if not found:
                wanted = ", ".join(sorted(SEARCHED))
                self._fail(path, ValueError(f"no recordings in this folder. Expected files ending in {wanted}."))
            self.paths += found
        # A pattern such as `lte*` matches both files of a SigMF recording, which is read once.
        self.paths = list(dict.fromkeys(map(_sigmf_meta, self.paths)))

    def open(self, path: Path) -> Recording | Band:
        """Open one of the recordings, or the part of its band that `--band` names."""
        recording = self._open(path)
        if getattr(self.arguments, "band", None) is None:
            return recording
        middle_hz, bandwidth_hz = self.arguments.band
        return Band(recording, middle_hz - (recording.center_frequency_hz or 0.0), bandwidth_hz)

    def _open(self, path: Path) -> Recording:
        """Open a whole recording; `--dtype` is ignored for files that record their sample type themselves."""
        suffix, rate = path.suffix.lower(), self.arguments.sampling_rate
        dtype = None if suffix in SELF_DESCRIBING else self.arguments.dtype
        channel = self.arguments.channel if suffix in WITH_CHANNELS or path not in self.searched else None
        options = {"dtype": dtype, "channel": channel}
        if rate is not None and path in self.searched:  # the option is for the files of a folder that lack a rate
            try:
                return open_recording(path, **options)
            except ValueError:  # this one has no rate of its own
                pass
        return open_recording(path, sampling_rate=rate, **options)

    def hear(self, recording: Recording | Band, pipe: Any, **options) -> Iterator[dict]:
        """Yield the pipeline's answers for a recording, window by window."""
        options["window_ms"] = getattr(self.arguments, "window_ms", None)
        options["max_segments"] = self.arguments.max_segments
        # In a terminal, rows of windows are printed one by one; a progress bar would garble them.
        with _progress(recording, hidden=bool(options["window_ms"]) and sys.stdout.isatty()) as advance:
            for answer in pipe.stream(recording, on_progress=advance, **options):
                yield {"start_s": 0.0, "duration_s": recording.duration_s, **answer}

    def look_at(self, recording: Recording | Band, find: Any) -> dict:
        """Find the carriers of a recording, in as much of it as `--max-segments` allows."""
        most = getattr(self.arguments, "max_segments", None)
        with _progress(recording, doing=": finding carriers") as advance:
            return find(recording, max_stretches=most and STRETCHES * most, on_progress=advance)

    @contextmanager
    def survived(self, path: Path) -> Iterator[None]:
        """Report an error in this recording, and go on with the others."""
        try:
            yield
        except Exception as error:
            if self.arguments.debug:
                raise
            self._fail(path, error)

    def _fail(self, path: Path, error: Exception):
        _complain(error, path)
        self.exit_code = max(self.exit_code, _exit_code(error))


@contextmanager
def _progress(recording: Recording | Band, doing: str = "", hidden: bool = False) -> Iterator[Callable[[int], None]]:
    """Show a progress bar after one second; yields a function to call with the number of samples just processed."""
    name = Path(recording.path).name + doing
    bar = tqdm(total=recording.duration_s, unit="s", desc=name, delay=1, leave=False, disable=hidden or None)
    with bar:
        yield lambda num_samples: bar.update(num_samples / recording.sampling_rate)


def _sigmf_meta(path: Path) -> Path:
    base = str(path).removesuffix(".sigmf-data")
    meta = Path(f"{base}.sigmf-meta")
    return meta if (path.suffix == ".sigmf-data" or not path.exists()) and meta.is_file() else path


def _recordings_in(folder: Path) -> list[Path]:
    # Hidden files are no recordings: macOS puts a `._x.wav` beside `x.wav` on other systems' disks.
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SEARCHED and path.name[0] != ".")
    return sorted(filter(Path.is_file, found))


def _load_pipeline(arguments: argparse.Namespace, heads: bool = False) -> Any:
    """Load the pipeline for classification; with `heads`, leave out those that the checkpoint has no weights for."""
    from transformers import AutoModelForSequenceClassification

    from .pipeline_lwm_spectro import IQClassificationPipeline

    name = str(arguments.model or default_checkpoint())
    model, missing_keys = _load_model(name, AutoModelForSequenceClassification, segments=False)
    untrained = []
    if heads:
        missing = {key.rpartition(".out_proj.")[0] for key in missing_keys}
        modules = {task: f"additional_classifiers.{task}" for task in model.config.heads}
        modules[model.config.task_name] = "classifier"
        untrained = [task for task, module in modules.items() if module in missing]
    options = {"synchronize": False if arguments.blind else None, "leave_out": untrained}
    pipe = _load("iq-classification", IQClassificationPipeline, arguments, name, model, **options)
    if heads and not pipe.tasks:
        raise ValueError(
            f"--model {name} has no trained weights for its heads ({', '.join(untrained)}). Train them with "
            "examples/run_classification.py; `lwm-spectro embed` works without them."
        )
    if untrained:
        _note(f"lwm-spectro: --model {name} has no weights for {', '.join(untrained)}: left out")
    return pipe


def _load_segmenter(arguments: argparse.Namespace, name: str) -> Any:
    """Load the pipeline that finds the carriers of recordings."""
    from transformers import AutoModelForSemanticSegmentation

    from .pipeline_masked_conv_lstm import IQSegmentationPipeline

    model, missing = _load_model(name, AutoModelForSemanticSegmentation, segments=True)
    if missing:
        raise ValueError(
            f"--model {name} has no trained weights for its head. Train it with "
            "examples/run_spectrum.py --task segmentation."
        )
    return _load("iq-segmentation", IQSegmentationPipeline, arguments, name, model)


@contextmanager
def _loading(model: str) -> Iterator[None]:
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        yield
    except StrictDataclassError as error:
        raise ValueError(f"--model {model}: its config.json is invalid: {without_wrapping(error)}") from error
    except SafetensorError as error:
        raise ValueError(f"--model {model}: its weights are damaged or incompletely copied: {error}") from error
    except OSError as error:
        if Path(model).exists():
            raise
        # The Hub's error, e.g. about a missing network, would not suggest that a folder was misspelled.
        raise OSError(f"--model {model}: there is no such folder, and asking the Hub failed: {error}") from error


def _load_model(name: str, auto_class: type, segments: bool) -> tuple[Any, set[str]]:
    """Load a model for `segment` or for the other commands, and list the weights that its heads lack."""
    from transformers import AutoConfig

    from .training.checkpoints import absent_weights, check_places, check_weights

    with _loading(name):
        kind = AutoConfig.from_pretrained(name).model_type
        kinds = {True: ("masked_conv_lstm",), False: ("lwm_spectro", "lwm_spectro_moe")}
        if kind not in kinds[segments]:
            others = ""
            if kind in kinds[not segments]:
                others = f"; use this one with `lwm-spectro {'classify' if segments else 'segment'}`"
            wanted = " or ".join(map(repr, kinds[segments]))
            raise ValueError(f"--model {name} has the type {kind!r}. Expected {wanted}{others}.")
        model, info = auto_class.from_pretrained(name, output_loading_info=True, ignore_mismatched_sizes=True)
    encoder = model.base_model_prefix + "."
    check_weights(info, f"--model {name}", encoder, "encoder weights")
    check_places(info, f"--model {name}", encoder)
    return model, set(absent_weights(info))


def _load(
    task: str, pipeline_class: type, arguments: argparse.Namespace, name: str, model: Any, **options: Any
) -> Any:
    from transformers import AutoFeatureExtractor, pipeline

    device = usable_device(arguments.device)
    with _loading(name):
        return pipeline(
            task,
            model=model,
            feature_extractor=AutoFeatureExtractor.from_pretrained(name),
            device=device,
            batch_size=arguments.batch_size,
            # Use the code of this package even if a checkpoint contains a copy.
            pipeline_class=pipeline_class,
            **options,
        )


def _quantities(answer: dict) -> list[str]:
    """The heads in an answer of the pipeline: protocol, modulation, snr_db ..."""
    return [name for name in answer if f"{name}_score" in answer]


def _record(
    path: Path,
    answer: dict,
    quantities: Iterable[str] | None = None,
    place: Mapping[str, float] = MappingProxyType({}),
) -> dict:
    """One line of output: the pipeline's answer for a whole recording, or for the carrier at `place`."""
    times = {name: round(answer[name], 9) for name in ("start_s", "duration_s")}
    record = {"file": str(path), **place, **times}
    for quantity in _quantities(answer) if quantities is None else quantities:
        record[quantity] = answer[quantity]
        record[f"{quantity}_score"] = round(answer[f"{quantity}_score"], 6)
    if quantities is None and "symbols_found" in answer:
        record["symbols_found"] = answer["symbols_found"]
        also = answer["also_found"]
        record["also_found"] = also and {name: round(share, 6) for name, share in also.items()}
    if "verdict" in answer:
        record["verdict"] = answer["verdict"]
    return record


def _as_list(values: np.ndarray | None) -> list | None:
    return None if values is None else values.tolist()


def _json_lines(records: Iterable[dict]) -> Iterator[str]:
    return (json.dumps(record) for record in records)


def _csv_lines(records: Iterable[dict], columns: Iterable[str] | None = None) -> Iterator[str]:
    """Lines of CSV. The header is `columns`, even if there are no records; by default the keys of the first record."""

    def line(row: Iterable) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="").writerow(row)
        return text.getvalue()

    if columns is not None:
        yield line(columns)
    for record in records:
        record = {name: " ".join(cell) if isinstance(cell, Mapping) else cell for name, cell in record.items()}
        record.pop("verdict", None)  # only silent recordings have it, but all rows need the same columns
        if columns is None:
            columns = list(record)
            yield line(columns)
        yield line(record[column] for column in columns)


class _Table:
    """Columns of fixed width, so that each row can be shown as soon as it is known."""

    def __init__(self, paths: list[Path]):
        # Names without folders, if these are unique.
        self.short = {str(path): path.name for path in paths}
        if len(set(self.short.values())) < len(self.short):
            self.short = {name: name for name in self.short}
        self.width = max([len("file"), *map(len, self.short.values())])

    def row(self, name: str, *cells: str) -> str:
        name = self.short.get(name, name)
        return "  ".join([name.ljust(self.width), *(cell.ljust(14) for cell in cells)]).rstrip()


def _carrier_lines(heard: Iterable[tuple[Path, list[dict]]], paths: list[Path]) -> Iterator[str]:
    table = _Table(paths)
    for index, (path, carriers) in enumerate(heard):
        if index == 0:
            yield table.row("file", "protocol", "center", "width", "active")
        if not carriers:
            yield table.row(str(path), "nothing")
        for carrier in carriers:
            yield table.row(
                str(path),
                carrier["label"],
                f"{carrier['center_hz'] / 1e6:.2f} MHz",
                f"{carrier['bandwidth_hz'] / 1e6:.2f} MHz",
                f"{100 * carrier['share_of_time']:.0f} %",
            )


def _table_lines(records: Iterable[dict], paths: list[Path], windowed: bool) -> Iterator[str]:
    table = _Table(paths)
    notes = {}
    for index, record in enumerate(records):
        quantities = _quantities(record)
        times = ["start", "duration"] if windowed else ["duration"]
        places = [name for name in PLACE if name in record]
        if index == 0:
            headings = [*("center width".split() if places else []), *times]
            yield table.row("file", *headings, *(quantity.removesuffix("_db") for quantity in quantities))
        cells = {name: "-" if record[name] is None else f"{record[name] / 1e6:.2f} MHz" for name in places}
        cells |= {name: f"{record[f'{name}_s'] * 1e3:.6g} ms" for name in times}
        for name in quantities:
            value = record[name]
            if isinstance(value, float):
                value = f"{value:g} dB" if name.endswith("_db") else f"{value:g}"
            cells[name] = "-" if value is None else f"{value} {record[f'{name}_score'] * 100:.0f} %"
        if "verdict" in record:
            cells[quantities[0]] = record["verdict"]
        if record.get("symbols_found") is False:
            notes["*"] = NO_SYMBOLS
            cells["protocol"] += " *"
        if record.get("also_found"):
            from .plotting import also_found

            notes["also"] = ALSO_FOUND
            cells["also"] = also_found(record["also_found"])
        yield table.row(record["file"], *cells.values())
    yield from notes.values()


def _write_lines(lines: Iterable[str], output: str | None):
    if output is None:
        for line in lines:
            print(line, flush=True)
        return
    with whole_file(output) as stream:
        for line in lines:
            stream.write(f"{line}\n".encode())
    _note(f"Wrote {output}")


def _write_picture(pictures: list, output: str):
    from .plotting import draw

    with whole_file(output) as stream:
        draw(pictures).savefig(stream, format=Path(output).suffix.lstrip(".") or "png")
    _note(f"Wrote {output}")


def _exit_code(error: Exception) -> int:
    return 2 if isinstance(error, USER_ERRORS) else 1


def _note(text: str):
    print(text, file=sys.stderr)


def _complain(error: Exception, path: Path | None = None):
    text = " ".join(str(error).split()) or type(error).__name__
    about = f"{path}: " if path is not None and str(path) not in text else ""
    _note(f"lwm-spectro: error: {about}{text}")
