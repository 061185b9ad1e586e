"""Folders for the Hub: they load where this package is not installed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, pipeline
from transformers.dynamic_module_utils import get_relative_import_files, get_relative_imports

from lwm_spectro_hf import (
    IQClassificationPipeline,
    LwmSpectroConfig,
    LwmSpectroForPreTraining,
    LwmSpectroMoEConfig,
    LwmSpectroMoEForPreTraining,
    LwmSpectroMoEForSequenceClassification,
    MaskedConvLstmConfig,
    MaskedConvLstmForSemanticSegmentation,
    SpectrogramFeatureExtractor,
    default_checkpoint,
)
from lwm_spectro_hf.hub.model_card import render
from lwm_spectro_hf.hub.publishing import export, publish
from tiny_models import build

SMALL = {
    "num_frames": 16,
    "num_freq_bins": 16,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
LABELS = {0: "BPSK", 1: "QPSK", 2: "16QAM"}


@pytest.fixture
def extractor():
    return SpectrogramFeatureExtractor(num_frames=16, num_freq_bins=16, fft_size=16)


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return LwmSpectroForPreTraining(LwmSpectroConfig(**SMALL)).eval()


@pytest.fixture
def mixture():
    torch.manual_seed(1)
    config = LwmSpectroMoEConfig(
        expert_config=SMALL,
        router_type="cnn",
        id2label=LABELS,
        label2id={label: index for index, label in LABELS.items()},
        additional_tasks={"snr_db+mobility": ["0+static", "10+static"]},
    )
    return LwmSpectroMoEForSequenceClassification(config).eval()


def read_json(path):
    return json.loads(path.read_text())


# Run in processes of their own, in which the package cannot be found.
BLOCKED = """
import json, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "lwm_spectro_hf":
            raise ModuleNotFoundError(f"{name} is not installed", name=name)

sys.meta_path.insert(0, Blocked())
"""
USER = """
import numpy as np
import torch
import transformers as tf

encoder, mixture, iq = sys.argv[1], sys.argv[2], np.load(sys.argv[3])
found = {}
for folder in (encoder, mixture):
    extractor = tf.AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)
    inputs = extractor(iq, return_tensors="pt")
    found[folder] = {"AutoConfig": type(tf.AutoConfig.from_pretrained(folder, trust_remote_code=True)).__name__}
    for name in ("AutoModel", "AutoModelForPreTraining", "AutoModelForSequenceClassification"):
        model, info = getattr(tf, name).from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
        found[folder][name] = [type(model).__name__, sorted(info["missing_keys"])]
    model = tf.AutoModel.from_pretrained(folder, trust_remote_code=True)
    with torch.no_grad():
        found[folder]["embedding"] = model(**inputs).pooler_output.tolist()
classify = tf.pipeline("iq-classification", model=mixture, trust_remote_code=True)
found["pipeline"] = [type(classify).__name__, classify(iq[0], sampling_rate=1e6)]
# As after fine-tuning: what is saved again works like what was loaded.
saved = sys.argv[4]
tf.AutoModelForSequenceClassification.from_pretrained(mixture, trust_remote_code=True).save_pretrained(saved)
tf.AutoFeatureExtractor.from_pretrained(mixture, trust_remote_code=True).save_pretrained(saved)
found["saved"] = tf.pipeline("iq-classification", model=saved, trust_remote_code=True)(iq[0], sampling_rate=1e6)
sys.path.insert(0, mixture)
import base64
from handler import EndpointHandler

endpoint, parameters = EndpointHandler(mixture), {"sampling_rate": 1e6}
parts = iq[0].view(np.float32)
requests = [
    {"inputs": parts.reshape(-1, 2).tolist(), "parameters": parameters},
    {"inputs": parts.tobytes(), "parameters": parameters},
    {"inputs": base64.b64encode(parts.tobytes()).decode(), "parameters": parameters},
    {"inputs": (parts * 3000).astype("<i2").tobytes(), "parameters": {**parameters, "dtype": "ci16"}},
    {"inputs": b"123"},
    {"inputs": "not base64!"},
    {"inputs": [1, 2, 3]},
    {"inputs": parts.tobytes(), "parameters": {"dtype": "f64"}},
    {"inputs": parts.tobytes(), "parameters": {"no_such": 1}},
    {"inputs": parts.tobytes(), "parameters": {**parameters, "synchronize": True}},
    {"inputs": parts.tobytes(), "parameters": [1e6]},
    {"inputs": parts.tobytes(), "parameters": {"inputs": 1}},
    [1],
    {"inputs": [[10**400, 0]] * 300},
    {"inputs": parts.tobytes(), "parameters": {"sampling_rate": 10**400}},
    {},
]
found["endpoint"] = [endpoint(request) for request in requests]
try:
    classify("recording.sigmf-meta")
except ImportError as error:
    found["path"] = str(error)
assert not any(name.partition(".")[0] == "lwm_spectro_hf" for name in sys.modules)
print(json.dumps(found))
"""


SPECTRUM_USER = """
import torch
import transformers as tf

folder, values = sys.argv[1], torch.linspace(-1, 1, 256).view(1, 1, 16, 16)
found = {}
for name in ("AutoModelForPreTraining", "AutoModelForTimeSeriesPrediction", "AutoModelForSemanticSegmentation"):
    model = getattr(tf, name).from_pretrained(folder, trust_remote_code=True)
    with torch.no_grad():
        embedding = model.base_model(values).pooler_output
    found[name] = [type(model).__name__, embedding.tolist()]
saved = sys.argv[2]
model.save_pretrained(saved)
tf.AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True).save_pretrained(saved)
assert tf.pipeline("iq-segmentation", model=saved, trust_remote_code=True).task == "iq-segmentation"
segment = tf.pipeline("iq-segmentation", model=folder, trust_remote_code=True)
sys.path.insert(0, folder)
from handler import EndpointHandler
answer = EndpointHandler(folder)({"inputs": [[1.0, 0.0]] * 1000, "parameters": {"sampling_rate": 2e6}})
found["endpoint"] = sorted(json.loads(json.dumps(answer)))
found["labels"] = segment((torch.arange(1000) % 7 * (1 + 1j)).numpy(), sampling_rate=2e6)["labels"].shape
assert not any(name.partition(".")[0] == "lwm_spectro_hf" for name in sys.modules)
print(json.dumps(found))
"""


def test_a_conv_lstm_loads_without_the_package(tmp_path):
    grid = {"num_frames": 16, "num_freq_bins": 16, "segment_frames": 4, "forecast_frames": 4}
    config = MaskedConvLstmConfig(**grid, hidden_size=4, num_hidden_layers=1)
    model = MaskedConvLstmForSemanticSegmentation(config).eval()
    grid = {"num_frames": 16, "num_freq_bins": 16, "fft_size": 16}
    extractor = SpectrogramFeatureExtractor(**grid, sampling_rate=1e6, hop_length=16)
    folder = export(model, tmp_path / "conv-lstm", feature_extractor=extractor)
    assert list(read_json(folder / "config.json")["custom_pipelines"]) == ["iq-segmentation"]
    process = subprocess.run(
        [sys.executable, "-I", "-c", BLOCKED + SPECTRUM_USER, str(folder), str(tmp_path / "saved")],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")},
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    found = json.loads(process.stdout.splitlines()[-1])
    with torch.no_grad():
        expected = model.base_model(torch.linspace(-1, 1, 256).view(1, 1, 16, 16)).pooler_output
    names = ["MaskedConvLstmForPreTraining", "MaskedConvLstmForForecasting", "MaskedConvLstmForSemanticSegmentation"]
    # Half the rate, so twice the bins, and 31 whole frames.
    assert found.pop("labels") == [31, 33]
    assert found.pop("endpoint") == ["bin_hz", "carriers", "frame_step_s", "labels"]
    assert [name for name, _ in found.values()] == names
    for _, embedding in found.values():
        torch.testing.assert_close(torch.tensor(embedding), expected)


def test_loads_without_the_package(tmp_path, encoder, mixture, extractor):
    iq = np.random.default_rng(3).standard_normal((2, 2048)).astype(np.float32).view(np.complex64)
    np.save(tmp_path / "iq.npy", iq)
    folders = [export(encoder, tmp_path / "encoder", feature_extractor=extractor)]
    folders += [export(mixture, tmp_path / "mixture", feature_extractor=extractor)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    process = subprocess.run(
        [sys.executable, "-I", "-c", BLOCKED + USER, *map(str, [*folders, tmp_path / "iq.npy", tmp_path / "saved"])],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    found = json.loads(process.stdout.splitlines()[-1])

    inputs = extractor(iq, return_tensors="pt")
    one, many = found[str(folders[0])], found[str(folders[1])]
    with torch.no_grad():
        for result, model in ((one, encoder), (many, mixture)):
            np.testing.assert_allclose(result["embedding"], model.base_model(**inputs).pooler_output, atol=1e-6)
    assert one["AutoConfig"] == "LwmSpectroConfig"
    assert one["AutoModel"] == ["LwmSpectroModel", []]
    assert one["AutoModelForPreTraining"] == ["LwmSpectroForPreTraining", []]
    assert one["AutoModelForSequenceClassification"][0] == "LwmSpectroForSequenceClassification"
    assert many["AutoConfig"] == "LwmSpectroMoEConfig"
    assert many["AutoModel"] == ["LwmSpectroMoEModel", []]
    assert many["AutoModelForPreTraining"][0] == "LwmSpectroMoEForPreTraining"
    assert many["AutoModelForSequenceClassification"] == ["LwmSpectroMoEForSequenceClassification", []]
    name, verdict = found["pipeline"]
    assert name == "IQClassificationPipeline"
    assert verdict["protocol"] in ("WiFi", "LTE", "5G")
    assert verdict["modulation"] in LABELS.values()
    *same, quantized, wrong, no_base64, no_pairs, no_type, no_argument, no_package = found["endpoint"][:-6]
    *no_object, huge, huge_rate, nothing = found["endpoint"][-6:]
    assert same == [verdict] * 3
    assert quantized["protocol_scores"] == pytest.approx(verdict["protocol_scores"], abs=0.02)
    assert wrong == {"error": "inputs has 3 bytes; expected 8 for each sample of cf32."}
    assert no_base64["error"].startswith("inputs is text that is not base64")
    assert (
        no_pairs
        == nothing
        == {"error": "inputs must be a list of pairs [I, Q], or bytes (in JSON: base64) of samples."}
    )
    assert no_type == {"error": "dtype is 'f64'; expected one of cf32, ci16, ci8."}
    assert "unknown argument 'no_such'" in no_argument["error"]
    assert "lwm_spectro_hf" in no_package["error"]
    assert [answer["error"].split(":")[0] for answer in no_object] == [
        "parameters must be an object",
        "parameters must be an object",
        "A request must be an object",
    ]
    assert huge == nothing and "error" in huge_rate
    assert found["saved"] == verdict
    assert "lwm-spectro-hf" in found["path"]


def test_export_of_a_folder_keeps_its_files(tmp_path, mixture, extractor):
    source = tmp_path / "source"
    mixture.save_pretrained(source)
    extractor.save_pretrained(source)
    (source / "README.md").write_text("card")
    (source / "results").mkdir()
    (source / "results" / "table.csv").write_text("1")
    (source / "training_args.bin").write_bytes(b"pickled by Trainer.save_model")
    before = read_json(source / "config.json")
    folder = export(source, tmp_path / "hub")
    assert (folder / "README.md").read_text() == "card" and not (folder / "training_args.bin").exists()
    assert (folder / "results" / "table.csv").read_text() == "1"
    assert (folder / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    after = read_json(folder / "config.json")
    assert after.pop("auto_map")["AutoModel"] == "modeling_lwm_spectro_moe.LwmSpectroMoEModel"
    assert after.pop("custom_pipelines")["iq-classification"]["pt"] == ["AutoModelForSequenceClassification"]
    assert after == before == read_json(source / "config.json")
    assert sorted(path.name for path in folder.glob("*.py")) == [
        "configuration_lwm_spectro.py",
        "evidence_lwm_spectro.py",
        "feature_extraction_lwm_spectro.py",
        "handler.py",
        "level_histogram_lwm_spectro.py",
        "modeling_lwm_spectro.py",
        "modeling_lwm_spectro_moe.py",
        "objectives_lwm_spectro.py",
        "patch_copying_lwm_spectro.py",
        "patches_lwm_spectro.py",
        "pipeline_lwm_spectro.py",
    ]


def test_exporting_an_export_changes_nothing(tmp_path, encoder, extractor):
    first = export(encoder, tmp_path / "first", feature_extractor=extractor)
    second = export(first, tmp_path / "second")
    assert {path.name: path.read_bytes() for path in first.iterdir()} == {
        path.name: path.read_bytes() for path in second.iterdir()
    }


def test_export_does_not_touch_the_model(tmp_path, encoder, extractor):
    export(encoder, tmp_path / "hub", feature_extractor=extractor)
    assert getattr(encoder.config, "auto_map", None) is None
    assert getattr(extractor, "auto_map", None) is None


def test_mixture_for_pretraining_loads_every_head_but_the_new_ones(tmp_path, extractor):
    config = LwmSpectroMoEConfig(expert_config=SMALL, router_type="cnn")
    folder = export(LwmSpectroMoEForPreTraining(config), tmp_path / "hub", feature_extractor=extractor)
    _, info = LwmSpectroMoEForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert info["missing_keys"] and all(key.startswith("classifier.") for key in info["missing_keys"])


def test_only_weights_with_a_head_get_a_pipeline(tmp_path, mixture, extractor):
    """A model without a trained head would answer at random."""
    pretrained = LwmSpectroMoEForPreTraining(mixture.config)
    for name, model in (("with", mixture), ("without", pretrained)):
        folder = export(model, tmp_path / name, feature_extractor=extractor)
        found = [(folder / file).exists() for file in ("handler.py", "requirements.txt")]
        assert found == [name == "with"] * 2 and ("custom_pipelines" in read_json(folder / "config.json")) == found[0]
    assert "AutoModel" in read_json(folder / "config.json")["auto_map"]


def test_the_snippet_of_a_card_works(tmp_path, mixture, extractor, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])  # to which the folder of these modules is added
    folder = export(mixture, tmp_path / "hub", feature_extractor=extractor)
    snippet = re.search(r"```python\n(.*?)```", render(str(folder), {}), re.DOTALL)[1]
    assert snippet == re.search(
        r"```python\n(.*?)```", (default_checkpoint() / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )[1].replace('"lwm-spectro-tiny"', f'"{folder}"')
    found = {}
    exec(snippet.rpartition("classify(")[0], found)
    tone = np.exp(1j * np.arange(1000)).astype(np.complex64)
    assert found["classify"](tone, sampling_rate=1e6)["protocol"]


@pytest.mark.parametrize("kind", ["encoder", "mixture", "conv-lstm"])
def test_files_with_classes_import_all_that_they_need_themselves(tmp_path, encoder, mixture, extractor, kind):
    # Transformers before 5.12 copies no other files of a local folder into its cache.
    models = {"encoder": encoder, "mixture": mixture, "conv-lstm": build("conv-lstm-segmentation")}
    if kind == "conv-lstm":
        config = models[kind].config
        grid = {"num_frames": config.num_frames, "num_freq_bins": config.num_freq_bins}
        extractor = SpectrogramFeatureExtractor(**grid, fft_size=24, window_function=["hann", "boxcar"])
    export(models[kind], tmp_path / "hub", feature_extractor=extractor)
    config = read_json(tmp_path / "hub" / "config.json")
    classes = [*config["auto_map"].values(), *(task["impl"] for task in config.get("custom_pipelines", {}).values())]
    for file in {tmp_path / "hub" / f"{name.split('.')[0]}.py" for name in classes}:
        needed = {Path(path).stem for path in get_relative_import_files(file)}
        assert needed <= set(get_relative_imports(file)), file.name


def test_export_needs_a_front_end(tmp_path, encoder):
    with pytest.raises(ValueError, match="preprocessor_config.json.*feature_extractor="):
        export(encoder, tmp_path / "hub")
    assert not (tmp_path / "hub").exists()


def test_export_needs_a_front_end_that_fits(tmp_path, encoder, mixture, extractor):
    other = SpectrogramFeatureExtractor(
        num_frames=16, num_freq_bins=16, fft_size=16, window_function=["hann", "boxcar"]
    )
    for model in (encoder, mixture):
        with pytest.raises(ValueError, match=r"shape \(2, 16, 16\) .* the model takes \(1, 16, 16\)"):
            export(model, tmp_path / "hub", feature_extractor=other)
    assert not (tmp_path / "hub").exists()


def test_export_refuses_folders_that_are_not_models(tmp_path, encoder, extractor):
    with pytest.raises(FileNotFoundError, match="config.json"):
        export(tmp_path / "absent", tmp_path / "hub")
    encoder.save_pretrained(tmp_path / "run" / "model")
    with pytest.raises(FileNotFoundError, match=r"Did you mean .*run/model\?"):
        export(tmp_path / "run", tmp_path / "hub")
    (tmp_path / "run" / "adapter_config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="holds adapters: merge them first"):
        export(tmp_path / "run", tmp_path / "hub")
    source = export(encoder, tmp_path / "source", feature_extractor=extractor)
    torch.save({}, source / "optimizer.pt")
    with pytest.raises(ValueError, match="optimizer.pt"):
        export(source, tmp_path / "hub")
    assert not (tmp_path / "hub").exists()


def test_export_keeps_an_existing_folder(tmp_path, encoder, extractor):
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="overwrite"):
        export(encoder, tmp_path / "hub", feature_extractor=extractor)
    export(encoder, tmp_path / "hub", feature_extractor=extractor, overwrite=True)
    assert not (tmp_path / "hub" / "mine.txt").exists()


def test_export_does_not_replace_its_source(tmp_path, encoder, extractor):
    folder = export(encoder, tmp_path / "hub", feature_extractor=extractor)
    with pytest.raises(ValueError, match="its own source"):
        export(folder, folder, overwrite=True)
    assert (folder / "model.safetensors").exists()


def test_installed_classes_come_first(tmp_path, mixture, extractor):
    folder = export(mixture, tmp_path / "hub", feature_extractor=extractor)
    assert type(AutoModelForSequenceClassification.from_pretrained(folder)) is LwmSpectroMoEForSequenceClassification
    # `custom_pipelines` makes Transformers ask for trust, unless the class is given.
    with pytest.raises(ValueError, match="trust_remote_code"):
        pipeline("iq-classification", model=str(folder))
    classify = pipeline("iq-classification", model=str(folder), pipeline_class=IQClassificationPipeline)
    assert type(classify.model) is LwmSpectroMoEForSequenceClassification


class FakeApi:
    """Stands in for `huggingface_hub.HfApi`; nothing goes over the network."""

    calls = []

    def __init__(self, token=None):
        self.token = token

    def create_repo(self, repo_id, **kwargs):
        self.calls.append(("create_repo", repo_id, kwargs))

    def create_branch(self, **kwargs):
        self.calls.append(("create_branch", self.token, kwargs))

    def upload_folder(self, **kwargs):
        self.calls.append(("upload_folder", self.token, kwargs))
        return "https://huggingface.co/someone/model/commit/1"


def test_publish(tmp_path, encoder, extractor, monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", FakeApi)
    monkeypatch.setattr(FakeApi, "calls", [])
    folder = export(encoder, tmp_path / "hub", feature_extractor=extractor)
    address = publish(folder, "someone/model", private=True, token="secret", commit_message="First")
    assert address.endswith("/commit/1")
    assert FakeApi.calls == [
        ("create_repo", "someone/model", {"private": True, "exist_ok": True}),
        (
            "upload_folder",
            "secret",
            {
                "repo_id": "someone/model",
                "folder_path": str(folder),
                "revision": None,
                "commit_message": "First",
                "ignore_patterns": ["__pycache__/*", "*/__pycache__/*", ".*", "*/.*"],
            },
        ),
    ]
    FakeApi.calls.clear()
    publish(folder, "someone/model", revision="v2")
    assert [call[0] for call in FakeApi.calls] == ["create_repo", "create_branch", "upload_folder"]
    assert FakeApi.calls[1][2] == {"repo_id": "someone/model", "branch": "v2", "exist_ok": True}
    FakeApi.calls.clear()
    publish(folder, "someone/model", revision="refs/pr/1")
    assert [call[0] for call in FakeApi.calls] == ["create_repo", "upload_folder"]


def test_publish_refuses_what_could_not_be_loaded(tmp_path, encoder, mixture, extractor, monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", FakeApi)
    monkeypatch.setattr(FakeApi, "calls", [])
    encoder.save_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match="no auto_map.*export"):
        publish(tmp_path / "saved", "someone/model")
    folder = export(encoder, tmp_path / "hub", feature_extractor=extractor)
    (folder / "training_args.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="holds training_args.bin"):
        publish(folder, "someone/model")
    (folder / "training_args.bin").unlink()
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(ValueError, match="weights in .* are damaged or incompletely copied"):
        publish(folder, "someone/model")
    (folder / "model.safetensors").write_bytes(whole)
    with_pipeline = export(mixture, tmp_path / "mixture", feature_extractor=extractor)
    for place, name in (
        (folder, "modeling_lwm_spectro.py"),
        (folder, "objectives_lwm_spectro.py"),  # which the model imports
        (with_pipeline, "pipeline_lwm_spectro.py"),
        (with_pipeline, "evidence_lwm_spectro.py"),
    ):
        code = (place / name).read_bytes()
        (place / name).unlink()
        with pytest.raises(ValueError, match=f"needs .*'{name}'.*are missing"):
            publish(place, "someone/model")
        (place / name).write_bytes(code)
    assert FakeApi.calls == []
