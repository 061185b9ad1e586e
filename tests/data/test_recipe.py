"""Recipes: an even walk over the grid, files that are read back, and mistakes that fail at once."""

import json
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lwm_spectro_hf.channel.scenarios import HELD_OUT_SCENARIOS, list_scenarios
from lwm_spectro_hf.data.recipe import MODES, PRESETS, PROTOCOLS, Recipe, offered_modes, preset, stable_seed

SMALL = {
    "modes": {"WiFi": MODES["WiFi"][:3], "LTE": MODES["LTE"][:4], "5G": MODES["5G"][:2]},
    "snrs_db": (0, 10, 20),
    "mobilities": ("static", "vehicular"),
    "channels": ("munich", "paris", "TDL-A"),
    "users": 7,
    "chunk_size": 4,
}


def walk(recipe, num_chunks, seed=0, protocol=None):
    """Labels of the first recordings, in order: (mode, SNR, mobility) and (channel, user)."""
    labels, places = [], []
    for chunk in range(num_chunks):
        rows = recipe.rows(chunk, seed)
        assert rows.index == list(range(chunk * recipe.chunk_size, (chunk + 1) * recipe.chunk_size))
        if protocol is None or rows.protocol == protocol:
            labels += zip(rows.mode, rows.snr, rows.mobility, strict=True)
            places += zip(rows.channel, rows.user, strict=True)
    return labels, places


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_labels_are_balanced_at_any_point_and_exactly_over_each_round(protocol):
    recipe = Recipe(protocols=(protocol,), **SMALL)
    size = len(recipe.modes[protocol]) * 3 * 2
    assert recipe.spectrograms_per_channel == size
    labels, _ = walk(recipe, 4 * size * 3 * 7 // 4)
    for start in range(0, len(labels) - size, size):
        assert len(set(labels[start : start + size])) == size
    for some in (10, 50, 333):
        counts = Counter(labels[:some])
        assert max(counts.values()) - min([counts[label] for label in set(labels)]) <= 1


def test_the_whole_grid_comes_before_any_repetition():
    recipe = Recipe(protocols=("LTE",), **SMALL)
    total = 4 * 3 * 2 * 3 * 7
    for seed in (0, 1):
        labels, places = walk(recipe, 2 * total // 4, seed)
        whole = list(zip(labels, places, strict=True))
        assert len(set(whole[:total])) == total
        assert set(whole[total:]) == set(whole[:total]) and whole[total:] != whole[:total], "a new order"
        counts = Counter(places[: total // 3])
        assert len(counts) == 21 and max(counts.values()) - min(counts.values()) <= 4
    assert walk(recipe, 8, 0) != walk(recipe, 8, 1)


def test_protocols_take_turns_and_the_share_of_noise_is_exact():
    recipe = Recipe(noise_share=0.2, **SMALL)
    protocols = [recipe.rows(chunk).protocol for chunk in range(1000)]
    counts = Counter(protocols)
    assert counts[None] == 200
    assert max(counts[name] for name in PROTOCOLS) - min(counts[name] for name in PROTOCOLS) <= 1
    for part in range(0, 1000, 5):
        assert protocols[part : part + 5].count(None) == 1
    # Chunks of noise do not take rows away from the protocols.
    quiet = Recipe(**SMALL)
    assert walk(recipe, 1000, protocol="LTE")[0][:100] == walk(quiet, 1000, protocol="LTE")[0][:100]
    assert {recipe.rows(chunk).protocol for chunk in range(20)} == {*PROTOCOLS, None}
    assert all(Recipe(noise_share=1.0).rows(chunk).protocol is None for chunk in range(5))


@pytest.mark.parametrize("share", [0.07, 0.29, 1 / 3])
def test_shares_without_exact_binary_value_are_kept(share):
    recipe = Recipe(noise_share=share, chunk_size=1)
    count = sum(recipe.rows(chunk).protocol is None for chunk in range(300))
    assert count == round(300 * share)


def test_seeds_depend_on_all_parts_and_never_change():
    assert stable_seed("rows", 0, 1) == 7317770346247200583
    assert stable_seed("rows", np.int64(0), np.int32(1)) == stable_seed("rows", 0, 1)
    assert len({stable_seed("rows", 0, 1), stable_seed("rows", 1, 0), stable_seed("setting", 0, 1)}) == 3


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_a_recipe_is_read_back_from_its_file(tmp_path, suffix):
    recipe = Recipe(**{**SMALL, "snrs_db": (-5, 2.5, math.inf)}, receivers={"blind": 0.25, "native": 0.75})
    path = tmp_path / f"recipe{suffix}"
    path.write_text(recipe.to_json())  # JSON is YAML
    assert Recipe.load(path) == recipe
    for name in PRESETS:
        path.write_text(preset(name).to_json())
        assert Recipe.load(path) == preset(name)


def test_yaml_with_some_fields_and_a_preset(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "preset: blind\nprotocols: [LTE]\nsnrs_db: [-5, .inf, inf]\nduration_s: 2e-3\nusers: 1e1\n"
        "carriers_hz: {LTE: [2e9]}\nchannels: [munich, TDL-A]\n"
    )
    recipe = Recipe.load(path)
    assert recipe.protocols == ("LTE",) and recipe.snrs_db == (-5, math.inf, math.inf)
    assert recipe.duration_s == 2e-3 and recipe.carriers_hz == {"LTE": (2e9,)}, "YAML itself takes 2e9 for text"
    assert recipe.channels == ("munich", "TDL-A") and recipe.users == 10 and type(recipe.users) is int
    assert recipe.receivers == {"blind": 1.0} and recipe.noise_share == 0.05


def test_presets():
    cities = set(list_scenarios()) - set(HELD_OUT_SCENARIOS)
    for name in PRESETS:
        assert set(preset(name).channels) == cities
    assert preset("paper").spectrograms_per_channel == 504
    assert preset("native").receivers == {"native": 1.0}
    assert preset("blind").noise_share > 0
    with pytest.raises(ValueError, match="no recipe 'papper'; expected one of paper, mixed, blind, native"):
        preset("papper")


class TestNarrowed:
    def test_protocols_modulations_rates(self):
        recipe = Recipe().narrowed(modulations=("64QAM",))
        assert recipe.protocols == PROTOCOLS
        assert {name for modes in recipe.modes.values() for name, _ in modes} == {"64QAM"}
        assert Recipe().narrowed(modulations=("BPSK",)).protocols == ("WiFi",), "the others have none"
        assert Recipe().narrowed(("LTE",), ("QPSK",), (0.2,)).modes["LTE"] == (("QPSK", 0.2),)
        assert Recipe().narrowed(("WiFi", "LTE"), ("BPSK", "QPSK"), (0.5,)).modes["LTE"] == (("QPSK", 0.5),)

    def test_given_fields_are_replaced(self):
        recipe = preset("paper").narrowed(snrs_db=(20,), mobilities=None, full_load=0.0)
        assert recipe.snrs_db == (20,) and recipe.full_load == 0.0
        assert recipe.mobilities == preset("paper").mobilities and recipe.modes == preset("paper").modes

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"protocols": ("LoRa",)}, "protocols is .*'LoRa'.*WiFi, LTE, 5G"),
            ({"modulations": ("8PSK",)}, "modulations is .*'8PSK'.*BPSK, QPSK, 16QAM"),
            ({"modulations": ("QPSK", "8PSK")}, "'8PSK'"),
            ({"protocols": ("LTE",), "modulations": ("BPSK",)}, "LTE has no modulation 'BPSK'; expected one of QPSK"),
            ({"protocols": ("LTE",), "modulations": ("BPSK", "QPSK")}, "LTE .*no BPSK"),
            ({"protocols": ("WiFi", "LTE"), "modulations": ("256QAM",)}, "WiFi has no modulation '256QAM'"),
            ({"protocols": ("WiFi",), "code_rates": (0.2,)}, "WiFi has no code rate 0.2 with BPSK; .* 0.50, 0.75"),
            ({"code_rates": (0.5, 1.2)}, "no code rate 1.2"),
            ({"code_rates": (math.nan,)}, "no code rate nan"),
            ({"modulations": ("QPSK", "256QAM"), "code_rates": (0.3,)}, "no 256QAM"),
            ({"snrs_db": (math.nan,)}, "snrs_db"),
            ({"full_load": 2.0}, "full_load is 2.0; expected a share"),
        ],
    )
    def test_unknown_choices_are_errors(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            Recipe().narrowed(**arguments)


def test_offered_modes_include_those_of_the_grid():
    for protocol in PROTOCOLS:
        for name, rate in MODES[protocol]:
            assert any(other == name and abs(rate - value) <= 0.05 for other, value in offered_modes(protocol))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"protocols": ["LoRa"]}, "protocols is .*'LoRa'.*WiFi, LTE, 5G"),
        ({"protocols": []}, "protocols is .*expected a list of some of WiFi"),
        ({"protocols": "LTE"}, "protocols is 'LTE'; expected a list"),
        ({"mobilities": ["running"]}, "'running'.*static, pedestrian, vehicular"),
        ({"receivers": {"perfect": 1}}, "'perfect'.*synchronous, blind, native"),
        ({"receivers": {"blind": 0}}, "at least one of them above 0"),
        ({"receivers": {"blind": -1, "native": 2}}, "expected shares"),
        ({"receivers": ["blind"]}, "receivers is .*expected values by name"),
        ({"channels": []}, "channels is .*munich.*TDL-A"),
        ({"channels": "munich"}, "channels is 'munich'; expected a list"),
        ({"snrs_db": []}, r"snrs_db is .*expected a list of numbers \[dB\]"),
        ({"snrs_db": [math.nan]}, "snrs_db is"),
        ({"snrs_db": ["loud"]}, "snrs_db is .*'loud'"),
        ({"snrs_db": [-math.inf]}, "snrs_db is"),
        ({"snrs_db": 10}, "snrs_db is 10; expected a list"),
        ({"full_load": 1.5}, "full_load is 1.5; expected a share from 0 to 1"),
        ({"noise_share": "some"}, "noise_share is 'some'; expected a share"),
        ({"channels": ["one/cam", "two/cam"]}, "expected folders of different names: rename one"),
        ({"users": 0}, "users is 0; expected a whole number, at least 1"),
        ({"chunk_size": True}, "chunk_size is True; expected a whole number"),
        ({"num_frames": 1}, "num_frames is 1; expected a whole number, at least 2"),
        ({"duration_s": 1e-7}, "duration_s is 1e-07; expected a number, at least 1e-05"),
        ({"preset": ["x"]}, "x"),
        ({"protocols": ["5G"], "resource_blocks": {"5G": [[30.0, 51]]}}, "expected a list of pairs, 15 or 30 kHz"),
        ({"users": 2.5}, "users is 2.5; expected a whole number"),
        ({"chunk_size": "big"}, "chunk_size is 'big'"),
        ({"fft_size": 100}, "fft_size is 100; expected a multiple of 128"),
        ({"duration_s": -1}, "duration_s is -1"),
        ({"max_clock_ppm": -1}, "max_clock_ppm is -1"),
        ({"modes": {"LTE": [["QPSK", 0.5]]}}, "modes of WiFi is"),
        ({"protocols": ["LTE"], "modes": {"LTE": [["BPSK", 0.5]]}}, "LTE has no modulation 'BPSK'.*QPSK, 16QAM"),
        ({"protocols": ["WiFi"], "modes": {"WiFi": [["BPSK", 0.9]]}}, "WiFi has no code rate 0.9 with BPSK"),
        ({"protocols": ["WiFi"], "modes": {"WiFi": [["BPSK", "half"]]}}, "modes of WiFi .*'half'.*expected a list"),
        ({"protocols": ["WiFi"], "modes": {"WiFi": ["BPSK"]}}, "modes of WiFi is .*pairs"),
        ({"protocols": ["LTE"], "resource_blocks": {"LTE": [7]}}, r"resource_blocks of LTE .*6, 15, 25, 50, 75, 100"),
        ({"protocols": ["LTE"], "resource_blocks": {}}, "resource_blocks of LTE is None"),
        ({"protocols": ["5G"], "resource_blocks": {"5G": [[60, 25]]}}, "resource_blocks of 5G .*15 or 30 kHz"),
        ({"protocols": ["5G"], "resource_blocks": {"5G": [[15, 300]]}}, "11 to 273"),
        ({"protocols": ["5G"], "resource_blocks": {"5G": [25]}}, "expected a list of pairs"),
        ({"symbol_steps": {"WiFi": [8], "LTE": [1], "5G 15 kHz": [1]}}, "symbol_steps of 5G 30 kHz is None"),
        ({"carriers_hz": {"LTE": [2e9]}}, "carriers_hz of WiFi is None"),
        ({"delay_spreads_s": {"WiFi": [1e-7, 1e-8]}}, "delay_spreads_s of WiFi .*lowest and highest"),
        ({"speeds_mps": {"static": [0, 0]}}, "speeds_mps of pedestrian is None"),
        ({"antenna_ports": [3]}, "antenna_ports is .*1, 2 or 4"),
        ({"antenna_ports": [2.0]}, "antenna_ports is .*1, 2 or 4"),
        ({"antenna_ports": [True]}, "antenna_ports is .*1, 2 or 4"),
        (
            {"protocols": ["LTE"], "resource_blocks": {"LTE": [6.0]}},
            r"resource_blocks of LTE .*6, 15, 25, 50, 75, 100",
        ),
        ({"protocols": ["LTE"], "symbol_steps": {"LTE": [True]}}, "symbol_steps of LTE .*whole numbers"),
        ({"adc_bits": [1, 8]}, "adc_bits"),
        ({"adc_bits": [8, 200]}, "adc_bits is .*within 2 to 32"),
        ({"rician_k_db": [0, 500]}, "rician_k_db is .*within -100 to 100"),
        ({"spans_s": [1e-3, math.inf]}, "spans_s is .*from 1e-06 on"),
        ({"snr_db": [10]}, "no 'snr_db'; expected preset or one of .*snrs_db"),
        ({"preset": "papper"}, "no recipe 'papper'"),
    ],
)
def test_bad_recipes_fail_at_once(tmp_path, fields, message):
    path = tmp_path / "bad.yaml"
    path.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=message):
        Recipe.load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("protocols: [LTE\n", "bad.yaml is neither YAML nor JSON: .*line 2"),
        ("", "holds no recipe; expected fields and values"),
        ("- LTE\n", "holds no recipe"),
        ("a\x00b", "neither YAML nor JSON"),
    ],
)
def test_files_that_are_not_recipes_are_errors(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"(?s){message}"):
        Recipe.load(path)
    with pytest.raises(FileNotFoundError, match="missing.yaml"):
        Recipe.load(Path(tmp_path / "missing.yaml"))


def test_files_are_utf_8_whatever_the_locale(tmp_path):
    (tmp_path / "recipe.yaml").write_text("# a café\nusers: 7\n", encoding="utf-8")
    code = "import sys; from lwm_spectro_hf.data.recipe import Recipe; print(Recipe.load(sys.argv[1]).users)"
    process = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "recipe.yaml")],
        capture_output=True,
        text=True,
        env={**os.environ, "LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    )
    assert process.stdout == "7\n", process.stderr
