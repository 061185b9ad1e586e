"""Labelled recordings: labels come from the metadata or from a file beside them, and missing ones are named."""

import json

import numpy as np
import pytest

from lwm_spectro_hf.data.builder import write_recordings
from lwm_spectro_hf.data.labelled_recordings import open_labelled_recordings
from lwm_spectro_hf.data.recipe import Recipe
from lwm_spectro_hf.data.recordings import write_sigmf

IQ = np.ones(64, np.complex64)


def truths(found):
    return {item.recording.path.name.removesuffix(".sigmf-meta"): (item.protocol, item.modulation) for item in found}


def test_reads_what_the_generator_writes(tmp_path):
    recipe = Recipe(
        protocols=("LTE", "WiFi"), resource_blocks={"LTE": (6,)}, noise_share=0.3, num_frames=16, chunk_size=2
    )
    paths = write_recordings(tmp_path, recipe, 8, seed=1)
    (tmp_path / "._a.sigmf-meta").write_bytes(b"what macOS writes beside files on other disks")
    found = open_labelled_recordings(tmp_path)
    assert [item.recording.path for item in found] == sorted(paths)
    for name, (protocol, modulation) in truths(found).items():
        said = name.split("-")[0]
        assert said == (protocol or "none").lower()
        mark = json.loads((tmp_path / f"{name}.sigmf-meta").read_text())["annotations"][0]
        assert mark["lwm:modulation"] == (modulation or "none")
    assert {item.protocol for item in found} == {"LTE", "WiFi", None}


def test_labels_come_from_the_metadata(tmp_path):
    parts = [{"lwm:protocol": "5G", "lwm:modulation": name, "core:sample_count": 9} for name in ("QPSK", "16QAM")]
    write_sigmf(tmp_path / "two", IQ, 1e6, parts)
    write_sigmf(tmp_path / "deep" / "wifi.6.5mbps", IQ, 1e6, global_info={"lwm:protocol": "wifi"})
    write_sigmf(tmp_path / "mixed", IQ, 1e6, [{"lwm:protocol": "LTE"}, {"lwm:protocol": "5G"}, {"core:label": "x"}])
    found = truths(open_labelled_recordings(tmp_path))
    assert found == {"two": ("5G", None), "wifi.6.5mbps": ("WiFi", None), "mixed": (None, None)}


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_labels_come_from_a_file(tmp_path, kind):
    write_sigmf(tmp_path / "a.6.5mbps", IQ, 1e6)
    write_sigmf(tmp_path / "deep" / "b", IQ, 1e6)
    write_sigmf(tmp_path / "c", IQ, 1e6, [{"lwm:protocol": "LTE", "lwm:modulation": "QPSK"}])
    rows = [("a.6.5mbps", "WiFi", "bpsk"), ("deep/b.sigmf-meta", "none", ""), ("c.sigmf-data", "5G", "64QAM")]
    if kind == "csv":
        text = "file,protocol,modulation\n" + "".join(",".join(row) + "\n" for row in rows)
    else:
        text = json.dumps({file: {"protocol": protocol, "modulation": name} for file, protocol, name in rows})
    (tmp_path / f"labels.{kind}").write_text("\ufeff" * (kind == "csv") + text)
    expected = {"a.6.5mbps": ("WiFi", "BPSK"), "b": (None, None), "c": ("5G", "64QAM")}
    assert truths(open_labelled_recordings(tmp_path)) == expected
    # A file that is given by name may be anywhere.
    moved = (tmp_path / f"labels.{kind}").rename(tmp_path / f"truth.{kind}")
    assert truths(open_labelled_recordings(tmp_path, moved)) == expected


def test_missing_columns_are_taken_from_the_metadata(tmp_path):
    write_sigmf(tmp_path / "c", IQ, 1e6, [{"lwm:protocol": "LTE", "lwm:modulation": "QPSK"}])
    (tmp_path / "labels.csv").write_text("file,protocol,comment\nc,5G,moved\n")
    assert truths(open_labelled_recordings(tmp_path)) == {"c": ("5G", "QPSK")}


def test_missing_folders_and_recordings_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        open_labelled_recordings(tmp_path / "nothing")
    with pytest.raises(ValueError, match="no recordings. Expected SigMF"):
        open_labelled_recordings(tmp_path)
    write_sigmf(tmp_path / "a", IQ, 1e6)
    with pytest.raises(ValueError, match=r"1 of 1 recordings have no protocol: a\. Add `lwm:protocol`"):
        open_labelled_recordings(tmp_path)
    with pytest.raises(FileNotFoundError, match="no file .*truth.csv"):
        open_labelled_recordings(tmp_path, tmp_path / "truth.csv")
    (tmp_path / "labels.csv").write_text("file,protocol\na,LTE\nb,LTE\n")
    with pytest.raises(FileNotFoundError, match="no recording 'b'"):
        open_labelled_recordings(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("labels.csv", "file,protocol\na,Bluetooth\n", "protocol 'Bluetooth' is unknown. Expected WiFi, LTE, 5G"),
        ("labels.csv", "file,protocol,modulation\na,LTE,8PSK\n", "modulation '8PSK' is unknown"),
        ("labels.csv", "file,protocol\na,LTE\na,LTE\n", "line 3 repeats 'a'"),
        ("labels.csv", "file,protocol\na,LTE\na.sigmf-meta,LTE\n", "'a' is labelled twice"),
        ("labels.csv", "name,protocol\na,LTE\n", "line 2 has no file"),
        ("labels.csv", "file,modulation\na,QPSK\n", "some without a protocol"),
        ("labels.csv", "", "no labels"),
        ("labels.csv", 'file,protocol\n"a,LTE\n', "the labels cannot be read"),
        ("labels.json", "{", "the labels cannot be read"),
        ("labels.json", '["a"]', "no labels"),
        ("labels.json", '{"a": "LTE"}', "no labels"),
        ("labels.json", '{"a": {"protocol": ["LTE"]}}', "is unknown"),
    ],
)
def test_wrong_labels_are_errors(tmp_path, name, text, message):
    write_sigmf(tmp_path / "a", IQ, 1e6)
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        open_labelled_recordings(tmp_path)


def test_labels_must_be_utf_8(tmp_path):
    write_sigmf(tmp_path / "a", IQ, 1e6)
    (tmp_path / "labels.csv").write_bytes(b"file,protocol\n\xff\xfe,LTE\n")
    with pytest.raises(ValueError, match="in UTF-8"):
        open_labelled_recordings(tmp_path)


def test_two_recordings_of_one_name_are_an_error(tmp_path):
    write_sigmf(tmp_path / "a", IQ, 1e6, [{"lwm:protocol": "LTE"}])
    (tmp_path / "a.sigmf").write_bytes(b"")
    with pytest.raises(ValueError, match="has both a.sigmf.* and a.sigmf"):
        open_labelled_recordings(tmp_path)
