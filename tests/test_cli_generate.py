"""`lwm-spectro generate`: files hold what the options ask for, and mistakes give one line."""

import json
import re
import shlex
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import load_dataset

from lwm_spectro_cli import GENERATE, build_parser, main
from lwm_spectro_hf import cli

SMALL = {
    "protocols": ["WiFi", "LTE", "5G"],
    "channels": ["exponential"],
    "resource_blocks": {"LTE": [6], "5G": [[15, 25]]},
    "chunk_size": 2,
    "duration_s": 1e-3,
}


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(json.dumps(SMALL))
    return path


@pytest.fixture
def generate(capsys):
    def run(*arguments):
        code = main(["generate", *map(str, arguments)])
        captured = capsys.readouterr()
        return SimpleNamespace(code=code, out=captured.out, err=captured.err)

    return run


def recipe_of(*arguments):
    return cli._recipe_of(build_parser().parse_args(["generate", "--out", "x", *map(str, arguments)]))


def test_examples_in_the_help_parse(tmp_path, monkeypatch, small):
    monkeypatch.chdir(tmp_path)
    small.rename("my-recipe.yaml")
    text = GENERATE[1].replace("\\\n", " ")
    examples = re.findall(r"^  lwm-spectro (generate .*)$", text, re.MULTILINE)
    assert len(examples) == 5
    for example in examples:
        cli._recipe_of(build_parser().parse_args(shlex.split(example)))


def test_options_narrow_the_recipe(small):
    recipe = recipe_of(
        *("--protocol", "LTE", "--modulation", "64QAM", "--code-rate", 0.5, "--snr-db", 20, "inf", "--num-rb", 6),
        *("--mobility", "vehicular", "--scenario", "munich", "TDL-A", "--receiver", "native", "--full-load", 0),
        *("--duration-ms", 5),
    )
    assert recipe.protocols == ("LTE",) and recipe.modes["LTE"] == (("64QAM", 0.5),)
    assert recipe.snrs_db == (20.0, float("inf")) and recipe.mobilities == ("vehicular",)
    assert recipe.channels == ("munich", "TDL-A") and recipe.receivers == {"native": 1.0}
    assert recipe.full_load == 0 and recipe.duration_s == 5e-3 and recipe.resource_blocks["LTE"] == (6,)
    assert recipe_of("--recipe", small, "--protocol", "5G", "--spacing-khz", 30).resource_blocks["5G"] == ((30, 25),)
    assert recipe_of("--protocol", "5G", "--num-rb", 24, "--spacing-khz", 30).resource_blocks["5G"] == ((30, 24),)
    assert recipe_of("--format", "sigmf").receivers == {"native": 1.0}
    assert recipe_of("--receiver", "listening").receivers == {"listening": 1.0}
    assert recipe_of("--preset", "mixed").receivers == {"synchronous": 0.4, "blind": 0.4, "listening": 0.2}
    small.write_text("protocols: [LTE]\nresource_blocks: {LTE: [6]}")
    assert recipe_of("--recipe", small, "--num-rb", 15).resource_blocks["LTE"] == (15,)
    assert recipe_of("--recipe", small, "--spacing-khz", 15).protocols == ("LTE",)


def test_small_data_sets_hold_all_protocols(small):
    assert recipe_of("--num", 1000).chunk_size == 32 and recipe_of("--recipe", small, "--num", 5).chunk_size == 2
    few = recipe_of("--num", 20)
    drawn = [few.rows(chunk).protocol for chunk in range(20 // few.chunk_size)]
    assert {drawn.count(protocol) * few.chunk_size for protocol in few.protocols} <= {6, 7}
    few = recipe_of("--num", 60)  # with six more from another city for testing
    assert {few.rows(chunk).protocol for chunk in range(6 // few.chunk_size)} == set(few.protocols)


def test_parquet_with_card_and_figures(generate, small, tmp_path):
    out = tmp_path / "set"
    arguments = ("--recipe", small, "--num", 4, "--num-test", 2, "--seed", 5, "--figures", "--out", out)
    result = generate(*arguments)
    assert result.code == 0 and result.out == f"{out}\n"
    rows = load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert {name: len(split) for name, split in rows.items()} == {"train": 4, "test": 2}
    assert set(rows["test"]["scenario"]) == {"florence"}
    card = (out / "README.md").read_text()
    pictures = {path.name for path in (out / "figures").iterdir()}
    assert pictures == {"protocols.png", "mobility.png", "doppler.png", "balance.png"}
    for picture in pictures:
        assert (out / "figures" / picture).read_bytes()[:4] == b"\x89PNG" and f"(figures/{picture})" in card
    other = generate(*arguments[:6], "--seed", 6, "--out", out)
    assert other.code == 2 and "different settings (seed" in other.err


def test_npz_and_sigmf(generate, small, tmp_path):
    out = tmp_path / "set.npz"
    narrow = ("--protocol", "LTE", "--modulation", "16QAM", "--snr-db", 15, "--mobility", "static", "--num", 3)
    result = generate("--recipe", small, *narrow, "--format", "npz", "--content", "iq", "spectrogram", "--out", out)
    assert result.code == 0
    with np.load(out) as arrays:
        assert arrays["iq"].shape[0] == arrays["input_values"].shape[0] == 3
        assert arrays["snr_db"].tolist() == [15] * 3 and not arrays["mobility"].any()
    folder = tmp_path / "files"
    assert generate("--recipe", small, *narrow, "--format", "sigmf", "--out", folder).code == 0
    assert len(list(folder.glob("lte-*.sigmf-meta"))) == 3


@pytest.mark.parametrize(
    "fields",
    [
        {"mobilities": ["static"], "speeds_mps": {"static": [0, 0]}},
        {"receivers": {"blind": 1}, "fft_size": 66},
        {"channels": ["none", "exponential"]},
        {"channels": ["none"]},
    ],
)
def test_pictures_of_any_recipe(tmp_path, monkeypatch, fields):
    from lwm_spectro_hf.data import figures
    from lwm_spectro_hf.data.recipe import Recipe

    drawn = {}

    def show(axis, recipe, seed, title):
        drawn[title.split(", ")[-1]] = figures.draw_recordings(recipe, 0, seed).speed_mps[0].item()

    monkeypatch.setattr(figures, "_show_spectrogram", show)
    paths = figures.draw_figures(tmp_path, Recipe.from_dict({**SMALL, **fields}))
    assert all(path.is_file() for path in paths)
    moves = fields.get("channels") != ["none"]
    assert ((tmp_path / "mobility.png") in paths) == moves
    if moves:
        assert drawn["static"] == 0 and drawn["vehicular"] >= 8, "as its title says"


def test_the_picture_of_the_balance_counts_labels():
    from lwm_spectro_hf.data.figures import draw_balance
    from lwm_spectro_hf.data.recipe import Recipe

    figure = draw_balance(Recipe.from_dict({**SMALL, "channels": ["none", "exponential"]}))
    assert "first 600 recordings" in figure.get_suptitle()
    (axis,) = (axis for axis in figure.axes if axis.get_title() == "mobility")
    lengths = dict(
        zip(
            [text.get_text() for text in axis.get_yticklabels()],
            [bar.get_width() for bar in axis.patches],
            strict=True,
        )
    )
    assert sum(lengths.values()) == 600
    assert lengths["static"] == pytest.approx(400, abs=10), "all that have no fading, and a third of the others"


def test_delay_profiles_of_cities_are_drawn():
    from lwm_spectro_hf.data.figures import draw_delay_profiles

    assert len(draw_delay_profiles(["munich", "florence"]).axes) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--modulation", "8PSK"), "modulations is .*'8PSK'.*BPSK, QPSK, 16QAM, 64QAM, 256QAM"),
        (("--protocol", "LTE", "--modulation", "BPSK"), "LTE has no modulation 'BPSK'"),
        (("--code-rate", 0.99), "no code rate 0.99"),
        (("--snr-db", "nan"), "snrs_db is"),
        (("--full-load", 3), "full_load is 3.0"),
        (("--protocol", "LTE", "--num-rb", 7), "resource_blocks of LTE is .*6, 15, 25, 50, 75, 100"),
        (("--protocol", "5G", "--num-rb", 300), "resource_blocks of 5G"),
        (("--scenario", "atlantis", "--format", "sigmf"), "No scenario 'atlantis'.*munich"),
        (("--scenario", "atlantis"), "No scenario 'atlantis'"),
        (("--recipe", "missing.yaml"), "missing.yaml"),
        (("--num-test", -5), "Split 'test' has -5"),
        (("--format", "npz", "--out", "."), "is a folder"),
        (("--protocol", "WiFi", "--num-rb", 25), "--num-rb affects only recordings of LTE or 5G"),
        (("--protocol", "LTE", "--spacing-khz", 30), "--spacing-khz affects only recordings of 5G"),
        (("--format", "npz", "--num-test", 5), "--num-test affects only recordings in --format parquet"),
        (("--format", "sigmf", "--processes", 2), "--processes affects only recordings in --format parquet"),
        (("--format", "sigmf", "--content", "iq"), "--content affects only recordings in --format parquet or npz"),
        (("--receiver", "blind", "--duration-ms", 5), "--duration-ms affects only recordings with --receiver native"),
    ],
)
def test_mistakes_give_one_line(generate, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = generate("--out", "set", "--num", 2, *arguments)
    assert result.code == 2 and not result.out
    assert re.fullmatch(rf"lwm-spectro: error: .*{message}.*\n", result.err), result.err
    assert not (tmp_path / "set" / "data").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--out", "x", "--num", "0"),
        ("--out", "x", "--protocol", "LoRa"),
        ("--out", "x", "--snr-db", "loud"),
        ("--out", "x", "--format", "hdf5"),
        ("--out", "x", "--preset", "paper", "--recipe", "a.yaml"),
        ("--out", "x", "--spacing-khz", "60"),
    ],
)
def test_wrong_usage_is_refused(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["generate", *arguments])
    assert stop.value.code == 2 and "error: " in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "option, value, message",
    [("--num", "0", "'0' is not a whole number above 0"), ("--duration-ms", "-1", "'-1' is not a number above 0")],
)
def test_numbers_out_of_range_are_named(option, value, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["generate", "--out", "x", option, value])
    assert f"argument {option}: {message}" in capsys.readouterr().err
