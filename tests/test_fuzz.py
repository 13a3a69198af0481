"""Damaged inputs end in a result or in one sentence; each finding of the fuzzing is held here."""

import json
import pickle
import subprocess
import sys
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from movies import make_movie, numbered
from safetensors.numpy import load_file, save_file
from tiny_media import tiny_magvit2, tiny_onedva, tiny_regen
from tiny_shards import make_shards

from regen.codec.latent_file import KEY, LatentVideo, read, write
from regen.corpus.shards import InputShard, LatentInfo, LatentManifest
from regen.curate.sources import parse_sidecar
from regen.data.shards import INDEX, ShardSet
from regen.embedders.linear import AutoencoderLinear
from regen.embedders.regen import AutoencoderRegen
from regen.io import check_types, parse_json, read_json
from regen.latents import Latents
from regen.media.files import VideoError
from regen.pretrained.models import load
from regen.recipes.stored import read_config
from regen.train.checkpoint import CheckpointInfo, read_info
from regen.train.throughput import drop_rows_after
from regen.workers import JobError

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
DEEP = "[" * 100_000


@pytest.mark.integration
def test_no_input_of_two_hundred_does_harm(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "tools" / "fuzz.py", "--inputs", "200", "--out", tmp_path]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert ran.returncode == 0, ran.stdout + ran.stderr[-2000:]
    report = read_json(tmp_path / "report.json")
    assert sum(report["counts"].values()) == report["inputs"] == 200


def test_a_case_depends_on_its_number_alone(tmp_path: Path) -> None:
    from fuzz import make_case
    from fuzz_targets import make_all

    make_all(tmp_path / "inputs", ["captions"])
    contents = []
    for number in (3, 4, 3):
        folder = make_case(tmp_path, 1, ("captions", number))
        contents.append([path.read_bytes() for path in sorted(folder.iterdir())])
    assert contents[0] == contents[2] != contents[1]


def test_json_that_is_nested_too_deeply(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(DEEP)
    (tmp_path / "a.toml").write_text(f"a = {DEEP}")
    with pytest.raises(ValueError, match="too deeply"):
        parse_json(DEEP)
    for path in (tmp_path / "config.json", tmp_path / "a.toml"):
        with pytest.raises(ValueError, match="--config"):
            read_config(path)
    with pytest.raises(JobError):
        parse_sidecar(DEEP, "a.json")


@pytest.mark.parametrize(
    ("name", "value"),
    [("samples", 1.0), ("samples", True), ("name", None), ("digest", ["x"])],
)
def test_records_have_the_types_of_their_fields(name: str, value: object) -> None:
    shard = InputShard("a", "b", 1, "c")
    check_types(shard)
    with pytest.raises(TypeError, match=name):
        check_types(InputShard(**asdict(shard) | {name: value}))


def change_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("make", "changes"),
    [
        (tiny_regen, {"depth": 1 << 40}),
        (tiny_regen, {"width": 1 << 20}),
        (tiny_regen, {"width": None}),
        (tiny_magvit2, {"encoder_blocks": 1 << 40}),
        (tiny_onedva, {"objective": False}),
        (tiny_onedva, {"num_queries": 1 << 40}),
        (tiny_regen, {"latents_mean": [[0.0]]}),
        (tiny_regen, {"latents_std": [[1.0] * 4, [float("nan")] * 4]}),
        (AutoencoderLinear, {"latents_mean": "zero"}),
        (AutoencoderLinear, {"temporal_compression_ratio": 1 << 40}),
        (AutoencoderLinear, {"_class_name": {}}),
    ],
)
def test_configurations_that_do_not_fit_the_weights(
    tmp_path: Path, make: Any, changes: dict[str, object]
) -> None:
    """They are refused before memory is taken for what they promise."""
    make().save_pretrained(tmp_path)
    change_json(tmp_path / "config.json", **changes)
    with pytest.raises(ValueError, match="model in .* (is damaged|must be one of)"):
        load(str(tmp_path), CPU, torch.float32)


class Opened:
    """Calls `open_it` when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return open_it, ()


def open_it() -> None:
    raise SystemError("a pickle was opened")


@pytest.mark.parametrize("direct", [False, True])
def test_a_pickle_in_a_folder_of_a_model_is_never_opened(tmp_path: Path, direct: bool) -> None:
    """Not beside the weights, not instead of them, and not where an index names it."""
    model, weights = tiny_regen(), "diffusion_pytorch_model"

    def loaded() -> Any:
        if direct:
            return AutoencoderRegen.from_pretrained(str(tmp_path))
        return load(str(tmp_path), CPU, torch.float32)

    model.save_pretrained(tmp_path)
    for name in (f"{weights}.bin", "pytorch_model.bin", "evil.bin", "config.pkl"):
        (tmp_path / name).write_bytes(pickle.dumps(Opened()))
    assert loaded().state_dict().keys() == model.state_dict().keys()
    index = {"metadata": {}, "weight_map": dict.fromkeys(model.state_dict(), "evil.bin")}
    (tmp_path / f"{weights}.safetensors").rename(tmp_path / "other.safetensors")
    with pytest.raises((ValueError, OSError)):
        loaded()
    for place in ("evil.bin", "../evil.safetensors", 5):
        index["weight_map"] = dict.fromkeys(model.state_dict(), place)
        (tmp_path / f"{weights}.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(ValueError, match="safetensors"):
            loaded()


def test_only_safetensors_may_be_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="use_safetensors"):
        AutoencoderRegen.from_pretrained(str(tmp_path), use_safetensors=False)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return make_shards(tmp_path / "shards", [make_movie(tmp_path / "a.mp4", numbered(4))])


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *(("frames", 0), ("frame_rate", np.nan), ("width", -1), ("shard", 1), ("shard", -1), ("offset", -5)),
        *(("size", -1), ("name_end", 1000), ("caption_end", -1)),
    ],
)
def test_an_index_that_no_shards_have(shards: Path, column: str, value: float) -> None:
    columns = load_file(shards / INDEX)
    header = json.loads((shards / INDEX).read_bytes()[8:].split(b"}}")[0].decode("latin-1") + "}}")
    columns[column][0] = value
    save_file(columns, shards / INDEX, header["__metadata__"])
    with pytest.raises(ValueError, match="damaged"):
        ShardSet(str(shards))


def test_an_index_without_its_format(shards: Path) -> None:
    save_file(load_file(shards / INDEX), shards / INDEX, {"regen": json.dumps({"shards": ["00000.tar"]})})
    with pytest.raises(ValueError, match="format 1, got None"):
        ShardSet(str(shards))


def test_a_size_in_an_index_takes_no_memory(shards: Path) -> None:
    whole = ShardSet(str(shards))
    whole.column("size")[0] = 1 << 60
    with pytest.raises(VideoError, match="cut off"):
        whole.read(0)


@pytest.mark.parametrize(
    "changes", [{"frame_rate": 0.0}, {"frames": 1 << 40}, {"label": -2}, {"caption": 5}, {"height": True}]
)
def test_facts_that_no_sample_has(changes: dict[str, Any]) -> None:
    facts: dict[str, Any] = dict.fromkeys(LatentInfo.__annotations__, 1)
    facts |= {"key": "a", "caption": "", "frame_rate": 1.0}
    LatentInfo(**facts)
    with pytest.raises((TypeError, ValueError)):
        LatentInfo(**facts | changes)


def test_a_manifest_of_other_types(tmp_path: Path) -> None:
    facts = {"model": "m", "model_class": "c", "weights": "w", "latent_channels": 4, "chunk_frames": 5}
    facts |= {"temporal_compression_ratio": 4, "spatial_compression_ratio": 8, "settings": {}, "classes": {}}
    statistics = [[0.0], [1.0]]
    facts |= {"latents_mean": statistics, "latents_std": statistics, "shards": [], "format": 1}
    (tmp_path / "manifest.json").write_text(json.dumps(facts | {"arguments": ["--data"]}))
    assert LatentManifest.read(tmp_path).arguments == ["--data"]
    (tmp_path / "manifest.json").write_text(json.dumps(facts | {"arguments": [5]}))
    with pytest.raises(ValueError, match="damaged"):
        LatentManifest.read(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        *({"size": [10**400, 8]}, {"size": ["inf", 8]}, {"size": [0, 8]}, {"frame_rate": "0"}),
        *({"pixel_aspect": "1e80"}, {"pixel_aspect": "0"}, {"source_size": [float("inf"), 8]}),
    ],
)
def test_facts_that_no_video_has(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "a.safetensors"
    latents = Latents.of(torch.zeros(1, 4, 1, 1, 1))
    write(path, LatentVideo(latents, torch.zeros(1, dtype=torch.float64), 8, 8, 8, 8, Fraction(25), "m", "w"))
    assert read(path).height == 8
    tensors = load_file(path)
    header = path.read_bytes()
    metadata = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])["__metadata__"]
    facts = json.loads(metadata[KEY]) | changes
    save_file(tensors, path, {KEY: json.dumps(facts)})
    with pytest.raises(ValueError, match="damaged"):
        read(path)


@pytest.mark.parametrize("times", [[0.0, float("nan")], [1.0, 0.0], [0.0, 1e300]])
def test_times_that_no_video_has(tmp_path: Path, times: list[float]) -> None:
    latents = Latents.of(torch.zeros(1, 4, 1, 1, 1))
    video = LatentVideo(latents, torch.tensor(times).double(), 8, 8, 8, 8, Fraction(25), "m", "w")
    write(tmp_path / "a.safetensors", video)
    with pytest.raises(ValueError, match="damaged"):
        read(tmp_path / "a.safetensors")


@pytest.mark.parametrize("changes", [{"checksums": {}}, {"checksums": 5}, {"config": "x"}, {"step": -1}])
def test_a_checkpoint_without_its_checksums(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Files that no checksum covers are not read."""
    info = asdict(CheckpointInfo(1, 0, {}, {".metadata": 5}))
    (tmp_path / "checkpoint.json").write_text(json.dumps(info))
    assert read_info(tmp_path).step == 1
    (tmp_path / "checkpoint.json").write_text(json.dumps(info | changes))
    with pytest.raises(ValueError, match="damaged"):
        read_info(tmp_path)
    (tmp_path / "checkpoint.json").write_text(json.dumps(info))
    (tmp_path / "__0_0.distcp").touch()
    with pytest.raises(ValueError, match="damaged"):
        read_info(tmp_path)


def test_a_log_with_bytes_of_no_text(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(b'{"step": 1}\n\x80\xff\n{"step": 2}\n')
    assert [row["step"] for row in drop_rows_after(tmp_path / "log.jsonl", 5)] == [1, 2]
