"""Data set cards (README.md) of generated data sets, rendered from what was built."""

import hashlib
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import ClassLabel, Features, List

from ..files import read_json, whole_file
from ..markdown import markdown_table
from .recipe import RECORD

_COUNTED = ("protocol", "modulation", "snr_db", "mobility", "scenario", "receiver")
_COLUMNS = {
    "input_values": "spectrogram as the model takes it: channels x frames (time down) x bins (DC in the middle)",
    "resolution": "time from frame to frame [s], and from bin to bin [Hz], of the spectrogram",
    "iq": "complex baseband as (I, Q)",
    "protocol": "WiFi, LTE or 5G; -1 where nothing can be heard",
    "modulation": "of the user's data; -1 where there is none",
    "code_rate": "of the user's data",
    "snr_db": "signal over noise inside the occupied band [dB]",
    "mobility": "static, pedestrian or vehicular",
    "speed_mps": "[m/s]",
    "doppler_hz": "largest Doppler shift [Hz]",
    "scenario": "the city, or the statistical channel",
    "user": "row of the scenario's users; -1 for channels without a city",
    "receiver": "synchronous (whole OFDM symbols, no prefix), listening (these, carrier anywhere), blind or native",
    "sampling_rate": "[Hz]",
    "bandwidth_hz": "width of the carrier [Hz]",
    "carrier_hz": "carrier frequency [Hz]",
    "seed": "with `index` and the recipe it makes the recording again",
    "index": "number of the recording in its split",
}


def write_card(folder: str | os.PathLike) -> Path:
    """Write README.md, with the front matter by which `load_dataset` finds the splits.

    Args:
        folder (`str` or `os.PathLike`): Written by [`~data.builder.build_parquet`]; pictures in `figures/` are
            included in the card.

    Returns:
        `Path`: The card.
    """
    folder = Path(folder).expanduser()
    record = read_json(folder / RECORD)
    splits = {name: sorted((folder / "data").glob(f"{name}-*.parquet")) for name in record["splits"]}
    lines = ["---", "license: cc-by-4.0", "tags: [wireless, spectrogram, iq, lte, 5g-nr, wifi, lwm-spectro]"]
    # `datasets` caches by the folder's name and this block, so the block has to identify the contents.
    sizes = {path.name: path.stat().st_size for paths in splits.values() for path in paths}
    content = hashlib.sha256(json.dumps([record, sizes], sort_keys=True).encode()).hexdigest()[:16]
    lines += ["configs:", "- config_name: default", f"  description: contents {content}", "  data_files:"]
    for name in splits:
        lines += [f"  - split: {name}", f"    path: data/{name}-*.parquet"]
    lines += ["---", f"# {folder.resolve().name}", ""]
    lines += [
        "Generated recordings of WiFi, LTE and 5G: coded, standard-conformant waveforms through moving multipath "
        "channels, heard by a receiver with noise and imperfections. Made with `lwm-spectro generate` of "
        "lwm-spectro-hf; the complete recipe is in `" + RECORD + "`.",
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        f'rows = load_dataset("{folder.resolve().name}", split="{next(iter(splits))}", streaming=True)  # this folder',
        "```",
        "",
        "The ray-traced cities are built from OpenStreetMap data, (c) OpenStreetMap contributors, ODbL.",
        "",
    ]
    for name, paths in splits.items():
        total = sum(pq.ParquetFile(path).metadata.num_rows for path in paths)
        size = sum(path.stat().st_size for path in paths)
        lines += [f"## Split {name}: {total:,} recordings, {len(paths)} files, {size / 1e6:,.0f} MB", ""]
        lines += [markdown_table([("label", "recordings"), *_balance(paths)]), ""]
    schema = Features.from_arrow_schema(pq.read_schema(next(iter(splits.values()))[0]))
    columns = [(f"`{name}`", _type_name(kind), _COLUMNS[name]) for name, kind in schema.items()]
    lines += ["## Columns", "", markdown_table([("column", "type", "what"), *columns])]
    pictures = sorted((folder / "figures").glob("*.png"))
    if pictures:
        lines += ["", "## Pictures", ""]
        lines += [f"![{path.stem.replace('_', ' ')}](figures/{path.name})" for path in pictures]
    with whole_file(folder / "README.md") as stream:
        stream.write(("\n".join(lines) + "\n").encode())
    return folder / "README.md"


def _type_name(kind: Any) -> str:
    if isinstance(kind, ClassLabel):
        return "class"
    if isinstance(kind, List):
        return f"{kind.feature.dtype} ({kind.length},)"
    return f"{kind.dtype} {kind.shape}" if hasattr(kind, "shape") else kind.dtype


def _balance(paths: list[Path]) -> list[tuple[str, str]]:
    """Number of recordings of each value of each label."""
    counts: dict[str, Counter] = {name: Counter() for name in _COUNTED}
    schema = Features.from_arrow_schema(pq.read_schema(paths[0]))
    for path in paths:
        table = pq.read_table(path, columns=list(_COUNTED))
        for name in _COUNTED:
            counts[name].update(table.column(name).to_pylist())
    rows = []
    for name, counter in counts.items():
        kind = schema[name]
        for value, count in sorted(counter.items()):
            if isinstance(kind, ClassLabel):
                value = kind.names[value] if value >= 0 else "none"
            rows.append((f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}", f"{count:,}"))
    return rows
