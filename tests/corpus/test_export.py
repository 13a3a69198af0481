"""Exported latents are those of the model, whoever computes them, and nothing else is mixed in."""

import json
import shutil
from fractions import Fraction
from itertools import islice
from pathlib import Path

import pytest
import torch
from tiny_latents import (
    CPU,
    contents,
    export,
    make_corpus,
    make_hybrid_model,
    make_lively_corpus,
    make_model,
    make_shards,
    times,
    wanted,
    work_left,
)
from tiny_media import make_video, same_latents
from torch import Tensor

from regen.codec.rate_control import parse_length
from regen.codec.sessions import EncodeSession
from regen.corpus.dataset import LatentDataset, summarize
from regen.corpus.export import ExportSettings, export_latents, export_missing, prepare, thread_decoder
from regen.embedders.magvit2 import AutoencoderMagvit2
from regen.embedders.regen import AutoencoderRegen
from regen.latents import Latents, collate
from regen.media.files import MissingFileError
from regen.media.pixels import Size, resize_center_crop
from regen.media.reader import VideoReader
from regen.pretrained.models import load, weights_hash
from regen.runtime import one_thread
from regen.tiling import Tile

NAMES = ("a", "b", "c", "d", "e", "a")  # more/a is the last one
FRAMES = (11, 6, 3, 1, 1, 1)


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def corpus(shared) -> Path:
    return make_corpus(shared / "clips")


@pytest.fixture(scope="module")
def model(shared) -> str:
    return make_model(shared / "tiny")


@pytest.fixture(scope="module")
def exported(corpus, model, shared) -> Path:
    """In shards of 2 files; tests that change it take a copy."""
    return export(model, corpus, shared / "whole", files_per_shard=2, batch=1)


@pytest.fixture(scope="module")
def lively(shared) -> Path:
    return make_lively_corpus(shared / "lively")


@pytest.fixture(scope="module")
def hybrid(shared) -> str:
    return make_hybrid_model(shared / "tiny-1d")


@pytest.fixture(scope="module")
def exported_hybrid(lively, hybrid, shared) -> Path:
    """In a shard of 2 files and one of 1."""
    return export(hybrid, lively, shared / "hybrid", files_per_shard=2, batch=1)


def by_hand(
    path: Path, model: str, size: Size | None = None, frames: int | None = None, length: str | None = None
) -> list[Latents]:
    """What the codec gives for each chunk."""
    with one_thread(), VideoReader(path) as reader:
        images = [frame.image for frame in islice(reader, frames)]
        if size is None:  # the centre, at multiples of 8
            height, width = (side // 8 * 8 for side in images[0].shape[:2])
            top, left = (images[0].shape[0] - height) // 2, (images[0].shape[1] - width) // 2
            images = [image[top : top + height, left : left + width] for image in images]
        kept = None if length is None else parse_length(length)
        session = EncodeSession(load(model, CPU, torch.float32), None, kept)
        chunks = session.feed(resize_center_crop(image, size) for image in images) + session.flush()
        return [chunk.latents for chunk in chunks]


def grid_by_hand(path: Path, model: str, size: Size | None = None, frames: int | None = None) -> Tensor:
    return collate(by_hand(path, model, size, frames)).grid


def files_of(corpus: Path) -> list[Path]:
    return [path for path in sorted(corpus.rglob("*")) if path.suffix in (".mp4", ".mkv", ".png", ".jpg")]


def test_latents_are_those_of_the_codec(exported, corpus, model):
    dataset = LatentDataset(exported)
    assert len(dataset) == 6
    for number, path in enumerate(files_of(corpus)):
        assert torch.equal(dataset.latents(number).grid, grid_by_hand(path, model)), path
        facts = dataset.info(number)
        assert facts.key.startswith(f"{NAMES[number]}-") and facts.frames == FRAMES[number]
        assert facts.last_frames == FRAMES[number] - (facts.chunks - 1) * 5
        assert facts.latent_frames == (1 if facts.frames == 1 else 2)
    odd = dataset.info(2)
    assert (odd.height, odd.width, odd.source_height, odd.source_width) == (16, 32, 21, 35)
    captions = [(dataset.info(i).caption, dataset.info(i).label) for i in (0, 1)]
    assert captions == [("a gradient, größer", 7), ("", -1)]


def test_one_size_and_the_first_frames(corpus, model, tmp_path):
    """Chunks of several videos go through the model together; that moves the last bits alone."""
    size = Size(16, 24)
    dataset = LatentDataset(export(model, corpus, tmp_path / "out", size=size, frames=7, batch=4))
    for number, path in enumerate(files_of(corpus)):
        expected = grid_by_hand(path, model, size, 7)
        torch.testing.assert_close(dataset.latents(number).grid, expected, rtol=1e-4, atol=1e-4)
    assert dataset.column("frames").tolist() == [7, 6, 3, 1, 1, 1]
    assert {*dataset.column("height"), *dataset.column("width")} == {16, 24}


def test_frame_rates(corpus, model, tmp_path):
    dataset = LatentDataset(export(model, corpus, tmp_path / "out", fps=Fraction(15), size=Size(16, 16)))
    assert dataset.column("frames").tolist() == [6, 3, 2, 1, 1, 1]  # of 30000/1001 a second
    assert dataset.column("frame_rate").tolist() == [15, 15, 15, 15, 1, 1]


def test_folder_and_shards_give_the_same(exported, corpus, model, tmp_path):
    shards = make_shards(corpus, tmp_path / "shards", 2)
    (shards / "classes.json").write_text('{"moving": 7}')
    out = export(model, shards, tmp_path / "out", batch=1)
    before, after = contents(exported), contents(out)
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] != after[name]} == {"manifest.json"}
    assert LatentDataset(out).manifest.classes == {"moving": 7}


def test_chunks_of_another_model(corpus, tmp_path):
    """The baseline has 5 latent frames for a chunk of 17, and one for an image."""
    network = AutoencoderMagvit2(latent_channels=4, encoder_widths=(12, 12, 12, 12), encoder_blocks=1)
    network.save_pretrained(tmp_path / "magvit")
    (tmp_path / "clips").mkdir()
    make_video(tmp_path / "clips" / "long.mp4", 20, 16, 24)
    shutil.copy(corpus / "e.png", tmp_path / "clips")
    dataset = LatentDataset(export(str(tmp_path / "magvit"), tmp_path / "clips", tmp_path / "out", batch=1))
    assert [tuple(dataset.latents(i).shape) for i in (0, 1)] == [(1, 4, 1, 2, 3), (2, 4, 5, 2, 3)]
    assert (dataset.info(1).last_frames, dataset.manifest.chunk_frames) == (3, 17)


def test_tiles(model, tmp_path):
    make_video(tmp_path / "wide.mp4", 5, 64, 128)
    out = export(model, tmp_path / "wide.mp4", tmp_path / "out", tile=Tile(64, 64, 32))
    whole = grid_by_hand(tmp_path / "wide.mp4", model)
    latents = LatentDataset(out).latents(0).grid
    assert latents.shape == whole.shape and not torch.equal(latents, whole)
    assert LatentDataset(out).manifest.settings["tile"] == "64x64"


def test_the_manifest_tells_how_to_use_them(exported, model):
    manifest, network = LatentDataset(exported).manifest, load(model, CPU, torch.float32)
    assert isinstance(network, AutoencoderRegen)
    assert (manifest.model_class, manifest.weights) == ("AutoencoderRegen", weights_hash(model))
    assert (manifest.latent_channels, manifest.chunk_frames) == (4, 5)
    assert torch.equal(torch.tensor(manifest.latents_std), network.latents_std)
    assert torch.equal(torch.tensor(manifest.latents_mean), network.latents_mean)
    assert [(shard.name, shard.samples) for shard in manifest.shards] == [(f"0000{i}", 2) for i in range(3)]


def test_a_rerun_does_nothing(exported, corpus, model, monkeypatch):
    before = times(exported)
    monkeypatch.setattr(
        "regen.corpus.export.load_embedder", lambda *given: pytest.fail("the model is not needed")
    )
    export(model, corpus, exported, files_per_shard=2, batch=1)
    export(model, corpus, exported, processes=2, files_per_shard=2, batch=1)
    assert times(exported) == before and work_left(exported) == []


def test_only_what_is_missing_is_made(exported, corpus, model, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(exported, out)
    (out / "00001.json").unlink()
    (out / "00001.safetensors").write_bytes(b"half done")
    before = times(out)
    request, progress = wanted(model, corpus, out, files_per_shard=2, batch=1), []
    export_latents(request, CPU, 1, lambda done, all: progress.append((done, all)))
    assert progress == [(5, 6), (6, 6), (6, 6)]
    after = times(out)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"00001.json", "00001.safetensors"}
    assert contents(out) == contents(exported)


@pytest.mark.integration
def test_several_processes_give_the_same_bytes(exported, corpus, model, tmp_path):
    out = export(model, corpus, tmp_path / "out", processes=2, files_per_shard=2, batch=1)
    assert contents(out) == contents(exported) and work_left(out) == []


def test_what_another_process_holds_is_waited_for(corpus, model, tmp_path, monkeypatch):
    request = wanted(model, corpus, tmp_path / "out", files_per_shard=2)
    plan = prepare(request, lambda: request.load(CPU))
    claim = plan.claims.claim("00001")
    claim.__enter__()
    waited = []

    def end_the_other(seconds: float) -> None:
        waited.append(plan.missing())
        claim.__exit__(None, None, None)

    monkeypatch.setattr("regen.corpus.export.time.sleep", end_the_other)
    export_missing(plan, lambda: request.load(CPU), thread_decoder(1), lambda done, total: None)
    assert waited == [[1]] and plan.missing() == []


def test_damaged_samples_are_skipped_and_listed(corpus, model, tmp_path):
    data = tmp_path / "clips"
    shutil.copytree(corpus, data)
    (data / "b.mkv").write_bytes(b"no video")
    content = (data / "a.mp4").read_bytes()
    (data / "f.mp4").write_bytes(content[: len(content) // 2])
    (data / "d.json").write_text('{"class": "cat"}')
    make_video(data / "g.mp4", 2, 6, 40)
    dataset = LatentDataset(export(model, data, tmp_path / "out"))
    assert [dataset.info(i).key[0] for i in range(len(dataset))] == ["a", "c", "e", "a"]
    skipped = json.loads((tmp_path / "out" / "00000.json").read_text())["skipped"]
    assert [key[0] for key in skipped] == ["b", "d", "f", "g"]
    expected = "b.mkv can't be read", "class of", "f.mp4", "40x6"
    for reason, words in zip(skipped.values(), expected, strict=True):
        assert words in reason and reason.endswith(".")


def test_a_shard_that_is_gone_stops_the_export(corpus, model, tmp_path):
    shards = make_shards(corpus, tmp_path / "shards", 2)
    hidden = (shards / "00001.tar").rename(tmp_path / "hidden")
    with pytest.raises(MissingFileError, match="00001.tar/c-"):
        export(model, shards, tmp_path / "out")
    made = contents(tmp_path / "out")
    assert "00001.json" not in made and "00000.json" in made
    hidden.rename(shards / "00001.tar")
    export(model, shards, tmp_path / "out")
    export(model, shards, tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_several_inputs(corpus, model, tmp_path):
    shards = make_shards(corpus, tmp_path / "shards", 4)
    dataset = LatentDataset(export(model, [corpus, shards], tmp_path / "out", frames=1))
    assert [shard.name for shard in dataset.manifest.shards] == ["00-00000", "01-00000", "01-00001"]
    keys = [dataset.info(i).key for i in range(12)]
    assert keys[:6] == keys[6:]
    other = make_shards(corpus, tmp_path / "other", 6)
    (shards / "classes.json").write_text('{"cat": 1}')
    (other / "classes.json").write_text('{"cat": 2}')
    with pytest.raises(ValueError, match="class 'cat' must have one index"):
        export(model, [shards, other], tmp_path / "third")


def test_hybrid_latents_are_those_of_the_codec(exported_hybrid, lively, hybrid):
    dataset, tokens, most = LatentDataset(exported_hybrid), 0, 0
    assert dataset.manifest.model_class == "AutoencoderOneDVA"
    for number, path in enumerate(files_of(lively)):
        expected, whole = by_hand(path, hybrid), dataset.latents(number)
        assert len(whole) == len(expected) == (3, 2, 1)[number]
        for chunk, theirs in enumerate(expected):
            assert same_latents(whole[chunk], theirs)
            assert same_latents(dataset.latents(number, slice(chunk, chunk + 1))[0], theirs)
            assert same_latents(dataset.latents(number, slice(chunk, None))[0], theirs)
        assert dataset.info(number).sequence_length == whole.length
        tokens, most = tokens + whole.length, most + whole.grid[:, 0].numel()
    lengths = dataset.latents(0).lengths.sum(1)
    assert lengths[0] > lengths[2] > 0, "they differ, so that there is something to test"
    found = summarize(exported_hybrid)
    assert (found.mean_sequence_length, found.sequence_length_fraction) == (tokens / 6, tokens / most)
    assert [*found.shapes] == ["3x4x5x2x3", "2x4x5x3x4", "1x4x1x2x3"]


def test_a_batch_moves_the_last_bits_of_hybrid_latents_alone(exported_hybrid, lively, hybrid, tmp_path):
    alone, together = LatentDataset(exported_hybrid), LatentDataset(export(hybrid, lively, tmp_path / "out"))
    for number in range(3):
        ours, theirs = together.latents(number), alone.latents(number)
        assert torch.equal(ours.lengths, theirs.lengths)
        torch.testing.assert_close(ours.grid, theirs.grid, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours.sequence, theirs.sequence, rtol=1e-4, atol=1e-4)


def test_a_shorter_length_is_the_beginning_of_a_longer_one(lively, hybrid, tmp_path):
    parts = {
        length: LatentDataset(export(hybrid, lively, tmp_path / length, batch=1, num_latents=length))
        for length in ("0%", "12", "50%", "100%")
    }
    for number, path in enumerate(files_of(lively)):
        full, none = parts["100%"].latents(number), parts["0%"].latents(number)
        most = full.grid[0, 0].numel()
        assert none.sequence.shape == (len(full), 4, 0) and full.lengths.sum(1).tolist() == [most] * len(full)
        for length, count in (("0%", 0), ("12", min(most, 12)), ("50%", most // 2), ("100%", most)):
            latents = parts[length].latents(number)
            assert latents.lengths.sum(1).tolist() == [count] * len(full)
            assert same_latents(latents, full.truncate(latents.lengths))
            for chunk, theirs in enumerate(by_hand(path, hybrid, length=length)):
                assert same_latents(latents[chunk], theirs)
    assert parts["12"].manifest.settings["num_latents"] == "12"
    assert "--num-latents 12" in parts["12"].manifest.command(tmp_path)


def test_a_length_is_a_setting_where_there_is_one(
    exported, exported_hybrid, corpus, lively, model, hybrid, tmp_path
):
    for folder in (exported, exported_hybrid):
        assert "num_latents" not in LatentDataset(folder).manifest.settings
    with pytest.raises(ValueError, match=r"other settings \(num_latents was absent and is now 50%\)"):
        export(hybrid, lively, exported_hybrid, files_per_shard=2, batch=1, num_latents="50%")
    with pytest.raises(ValueError, match="need a One-DVA model"):
        export(model, corpus, tmp_path / "out", num_latents="50%")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="of 48x32 pixels has 30 1D latents, fewer .* or one --size for all"):
        export(hybrid, lively, tmp_path / "out", num_latents="31")


def test_hybrid_precisions_and_sizes(lively, hybrid, tmp_path):
    """A picture that does not divide into patches is padded; the overview counts the patches there are."""
    size = Size(24, 40)
    whole = LatentDataset(export(hybrid, lively, tmp_path / "fp32", batch=1, size=size))
    for store, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        half = export(hybrid, lively, tmp_path / store, batch=1, size=size, latent_dtype=store)
        for number in range(3):
            expected = whole.latents(number)
            assert same_latents(LatentDataset(half).latents(number), expected.to(dtype=dtype))
            assert expected.shape[-2:] == (2, 3) and expected.is_finite()
    assert "3x4x5x2x3" in summarize(tmp_path / "fp32").shapes


def test_other_settings_or_data_are_refused(exported, corpus, model, tmp_path):
    out, same = tmp_path / "out", {"files_per_shard": 2, "batch": 1}
    shutil.copytree(exported, out)
    with pytest.raises(ValueError, match=r"\(batch was 1 and is now 2; size was None and is now 16x24\)"):
        export(model, corpus, out, files_per_shard=2, batch=2, size=Size(16, 24))
    other = make_model(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match=r"\(model was .*tiny \(hash .*\) and is now .*other \(hash"):
        export(other, corpus, out, **same)
    shutil.copytree(model, tmp_path / "renamed")
    export(str(tmp_path / "renamed"), corpus, out, **same)
    for change, words in (
        (lambda data: make_video(data / "z.mp4"), "/z.mp4 is new"),
        (lambda data: (data / "b.mkv").write_bytes(b"1"), "has changed"),
        (lambda data: [path.unlink() for path in (data / "e.png", data / "more" / "a.jpg")], "is missing"),
    ):
        data = tmp_path / words[-4:]
        shutil.copytree(corpus, data)
        change(data)
        with pytest.raises(ValueError, match=f"{words} since .* begun; undo it, or give another --out"):
            export(model, data, out, **same)
    assert contents(out) == contents(exported)


def test_nan_and_lack_of_memory_stop_the_export(corpus, model, tmp_path, monkeypatch):
    network = load(model, CPU, torch.float32)
    with torch.no_grad():
        next(network.encoder.parameters()).fill_(float("nan"))
    network.save_pretrained(tmp_path / "nan")
    with pytest.raises(ValueError, match="latents of a-.* not finite"):
        export(str(tmp_path / "nan"), corpus, tmp_path / "out")

    def encode(self: AutoencoderRegen, video: Tensor, tile: Tile | None = None) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(AutoencoderRegen, "encode", encode)
    with pytest.raises(MemoryError, match="memory for 3 chunks of 40x32 pixels; choose a smaller --batch"):
        export(model, corpus, tmp_path / "other")
    assert [*contents(tmp_path / "other")] == ["manifest.json"] and work_left(tmp_path / "other") == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": Size(20, 24)}, "multiples of 8, got 20x24"),
        ({"frames": 0}, "--frames .* 0"),
        ({"files_per_shard": 0}, "--files-per-shard .* 0"),
        ({"fps": Fraction(0)}, "--fps .* 0"),
        ({"latent_dtype": "fp8"}, "got 'fp8'"),
    ],
)
def test_impossible_settings(changes, words):
    with pytest.raises(ValueError, match=words):
        ExportSettings(**{"dtype": "fp32"} | changes)


def test_impossible_paths(model, tmp_path):
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "00000.tar").write_bytes(b"")
    for data, words in (
        ([], "--data must name"),
        (tmp_path / "bare", "bare has no readable index.safetensors"),
        (tmp_path / "bare" / "00000.tar", "is one shard"),
    ):
        with pytest.raises(ValueError, match=words):
            export(model, data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_files_may_name_its_classes(corpus, model, tmp_path):
    folder = tmp_path / "named"
    folder.mkdir()
    for name in ("c.mp4", "e.png"):
        shutil.copy(corpus / name, folder)
    (folder / "c.cls").write_text("2")
    (folder / "classes.json").write_text('{"still": 0, "moving": 2}')
    dataset = LatentDataset(export(model, folder, tmp_path / "out"))
    assert dataset.manifest.classes == {"still": 0, "moving": 2}
    assert len(dataset) == 2 and dataset.column("label").tolist() == [2, -1]
    (folder / "classes.json").write_text('["still"]')
    with pytest.raises(ValueError, match="classes.json must hold class indices"):
        export(model, folder, tmp_path / "again")
