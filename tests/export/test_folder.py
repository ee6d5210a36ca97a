"""An exported folder: its files, the code of its README, transformers.js; no partial output."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import configs
import numpy as np
import onnx
import onnxruntime
import pytest
from typer.testing import CliRunner

from opensnac import SNAC, cli
from opensnac.config import CodecConfig
from opensnac.errors import ConfigError
from opensnac.export import folder, models
from opensnac.export.weights import Weights

NODE_MODULES = "OPENSNAC_NODE_MODULES"  # a folder where npm has installed @huggingface/transformers


@pytest.fixture(scope="module")
def weights() -> Weights:
    return Weights.of(configs.model_of(configs.TINY))


@pytest.fixture(scope="module")
def exported(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "out"
    folder.export(weights, out, ["fp32", "fp16", "int8"], stream=True)
    return out


def test_its_files(exported: Path, weights: Weights) -> None:
    kinds = [f"{coder}_{form}" for coder in ("decoder", "encoder") for form in ("model", "stream")]
    graphs = sorted(f"{kind}{suffix}.onnx" for kind in kinds for suffix in ("", "_fp16", "_int8"))
    assert sorted(path.name for path in (exported / "onnx").iterdir()) == graphs
    about = json.loads((exported / "opensnac.json").read_text())
    assert (about["name"], about["fingerprint"]) == (weights.name, weights.fingerprint)
    assert sorted(about["graphs"]) == graphs
    for name in graphs:
        session = onnxruntime.InferenceSession(exported / "onnx" / name)
        said = session.get_modelmeta().custom_metadata_map
        assert said["fingerprint"] == weights.fingerprint
        assert {key: json.dumps(value) for key, value in about["graphs"][name].items() if key != "weights"}.items() <= (
            said.items()
        )
    assert CodecConfig.from_json(exported / "config.json") == weights.config
    assert (exported / "onnx/decoder_model_int8.onnx").stat().st_size < (
        exported / "onnx/decoder_model.onnx"
    ).stat().st_size


def block(exported: Path, language: str) -> str:
    (code,) = re.findall(rf"```{language}\n(.*?)```", (exported / "README.md").read_text(), re.S)
    return str(code)


def test_the_readmes_python_runs(exported: Path) -> None:
    code = block(exported, "python") + "\nassert audio.shape == (1, 1, 24064)\n"
    subprocess.run([sys.executable, "-c", code], cwd=exported, check=True)


def test_the_readmes_javascript_runs(exported: Path, tmp_path: Path) -> None:
    """By transformers.js in Node, and to the same samples as by ONNX Runtime in Python."""
    modules = os.environ.get(NODE_MODULES)
    if shutil.which("node") is None or modules is None:
        pytest.skip(f"needs Node, and {NODE_MODULES}: where npm has installed @huggingface/transformers")
    shutil.copytree(exported, tmp_path / "out")
    (tmp_path / "out/node_modules").symlink_to(Path(modules).resolve())
    shown = "\nconsole.log(JSON.stringify([...audio_values.data.slice(0, 2000)]));"
    (tmp_path / "out/run.mjs").write_text(block(exported, "js") + shown)
    done = subprocess.run(["node", "run.mjs"], cwd=tmp_path / "out", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    encoder, decoder = (
        onnxruntime.InferenceSession(exported / f"onnx/{kind}_model.onnx") for kind in ("encoder", "decoder")
    )
    codes = encoder.run(None, {"input_values": np.zeros((1, 1, 24000), np.float32)})
    (wanted,) = decoder.run(None, {f"audio_codes.{i}": scale for i, scale in enumerate(codes)})
    np.testing.assert_allclose(json.loads(done.stdout), wanted[0, 0, :2000], atol=1e-5)


def test_weights_beyond_one_file(weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "LARGEST", 1000)
    folder.export(weights, tmp_path / "out")
    codes = {f"audio_codes.{i}": np.zeros((1, n), np.int64) for i, n in enumerate((1, 2, 4))}
    (heard,) = onnxruntime.InferenceSession(tmp_path / "out/onnx/decoder_model.onnx").run(None, codes)
    (wanted,) = onnxruntime.InferenceSession(models.decoder_model(weights).SerializeToString()).run(None, codes)
    assert np.array_equal(heard, wanted)
    assert (tmp_path / "out/onnx/decoder_model.onnx_data").exists()


def test_folded_weights_are_the_same_model(tmp_path: Path) -> None:
    model = configs.model_of(configs.TINY)
    before = Weights.of(model)
    model.fold_weight_norm().save_pretrained(tmp_path)
    after = Weights.read(tmp_path, before.name)
    assert after.fingerprint == before.fingerprint
    for name, value in before.arrays.items():
        np.testing.assert_allclose(after[name], value, rtol=1e-5, atol=1e-7)


def test_the_command_reads_pytorch_weights(tmp_path: Path) -> None:
    import torch

    model = SNAC(**configs.TINY)
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model/model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "model/pytorch_model.bin")
    out = tmp_path / "out"
    done = CliRunner().invoke(cli.app, ["export", str(tmp_path / "model"), "-o", str(out), "--noise", "none"])
    assert done.exit_code == 0, done.output
    assert json.loads((out / "opensnac.json").read_text())["fingerprint"] == model.fingerprint
    names = {value.name for value in onnx.load(out / "onnx/decoder_model.onnx").graph.input}
    assert names == {"audio_codes.0", "audio_codes.1", "audio_codes.2"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "got 'nothing'"),
        (["speech_24khz_tiny", "--weights", "fp8"], "weights: expected fp32, fp16, int8, got 'fp8'"),
        (["speech_24khz_tiny", "--noise", "some"], "--noise: expected exact or none, got 'some'"),
    ],
)
def test_refusals(tmp_path: Path, arguments: list[str], words: str) -> None:
    done = CliRunner().invoke(cli.app, ["export", *arguments, "-o", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert words in done.stderr
    assert [*tmp_path.iterdir()] == []


def test_an_existing_folder_is_left_alone(weights: Weights, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    folder.export(weights, tmp_path / "out")  # empty
    before = sorted(path.stat().st_mtime_ns for path in tmp_path.rglob("*"))
    with pytest.raises(FileExistsError, match="out: exists and is not empty"):
        folder.export(weights, tmp_path / "out")
    with pytest.raises(ConfigError, match="expected fp32, fp16, int8"):
        folder.export(weights, tmp_path / "other", ["fp64"])
    assert sorted(path.stat().st_mtime_ns for path in tmp_path.rglob("*")) == before


def test_a_full_disk_leaves_nothing(weights: Weights, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
        with pytest.raises(OSError, match="out"):
            folder.export(weights, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [*tmp_path.iterdir()] == []
