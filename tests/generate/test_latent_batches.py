"""Batches of latents: functions of seed, step and row; of one size; of the requested size."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_latents import CPU, export, make_hybrid_model, make_lively_corpus, make_model
from tiny_media import make_image, make_video
from tiny_text import make_t5

from regen.corpus.dataset import LatentDataset
from regen.generate.captions import CaptionStates, embed_captions
from regen.generate.inputs import concat_chunks
from regen.generate.latent_batches import LatentBatches, LatentStage, pad_text
from regen.generate.text import find_text_encoder

VIDEOS = LatentStage(tokens_per_batch=24 * 7, image_share=0.0)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> LatentDataset:
    """Videos of 4 x 6 places with 3, 2 and 1 chunks, one of 3 x 4, and two images of 4 x 6."""
    place = tmp_path_factory.mktemp("batches")
    corpus = place / "corpus"
    corpus.mkdir()
    for name, frames, height, width in (
        ("a", 15, 32, 48),
        ("b", 10, 32, 48),
        ("c", 5, 32, 48),
        ("d", 5, 24, 32),
    ):
        make_video(corpus / f"{name}.mp4", frames, height, width)
    make_image(corpus / "e.png", 32, 48)
    make_image(corpus / "f.png", 32, 48)
    for name, label, caption in (("a", 1, "a red ball"), ("b", 0, "the cat sits on the mat"), ("e", 2, "")):
        (corpus / f"{name}.cls").write_text(str(label))
        (corpus / f"{name}.txt").write_text(caption)
    return LatentDataset(export(make_model(place / "model"), corpus, place / "latents"))


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory) -> LatentDataset:
    place = tmp_path_factory.mktemp("hybrid")
    corpus = make_lively_corpus(place / "corpus")
    return LatentDataset(export(make_hybrid_model(place / "model"), corpus, place / "latents"))


def batches(
    dataset: LatentDataset, *stages: LatentStage, steps: int = 40, seed: int = 0, **options: object
) -> LatentBatches:
    return LatentBatches(dataset, np.arange(len(dataset)), stages, steps, seed, **options)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_batch_is_a_function_of_seed_and_step(dataset):
    stage = replace(VIDEOS, image_share=0.3, chunks=(1, 2))
    one, again, other = (batches(dataset, stage, seed=seed, class_conditional=True) for seed in (0, 0, 1))
    assert all(same(one[step, 0, 1], again[step, 0, 1]) for step in range(8))
    assert not any(same(one[step, 0, 1], other[step, 0, 1]) for step in range(8))
    assert not same(one[0, 0, 1], one[1, 0, 1]) and len(one) == 40


def test_damaged_latents_are_named_once_and_replaced(dataset, monkeypatch, capsys):
    read, bad = LatentDataset.latents, {0}

    def damaged(self, index, *chunks):
        if index in bad:
            raise ValueError("The latents are damaged.")
        return read(self, index, *chunks)

    whole, partly = batches(dataset, VIDEOS), batches(dataset, VIDEOS)
    expected = [whole[step, 0, 1] for step in range(20)]
    monkeypatch.setattr(LatentDataset, "latents", damaged)
    found = [same(batch, partly[step, 0, 1]) for step, batch in enumerate(expected)]
    assert any(found) and not all(found)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("The latents are damaged. Another sample is drawn instead.")
    bad.update(range(len(dataset)))
    with pytest.raises(ValueError, match="are damaged"):
        partly[0, 0, 1]


@pytest.mark.parametrize("parts", [2, 3])
@pytest.mark.parametrize("kind", ["dataset", "hybrid"])
def test_parts_are_the_rows_of_the_whole_batch(kind, parts, request):
    data = request.getfixturevalue(kind)
    made = batches(
        data, LatentStage(tokens_per_batch=200, image_share=0.3), class_conditional=kind == "dataset"
    )
    for step in range(6):
        whole = made[step, 0, 1]
        count = int(whole["batch_size"])
        assert whole["rows"].tolist() == [*range(count)]
        pieces = [made[step, part, parts] for part in range(parts)]
        assert torch.equal(torch.cat([piece["rows"] for piece in pieces]), whole["rows"])
        for name in whole.keys() - {"rows", "batch_size", "progress", "sequence"}:
            assert torch.equal(torch.cat([piece[name] for piece in pieces]), whole[name]), name
        if "sequence" in whole:
            totals = whole["lengths"].sum(1).tolist()
            ones = [row for piece in pieces for row in piece["sequence"]]
            for row, one, total in zip(whole["sequence"], ones, totals, strict=True):
                assert torch.equal(row[:, :total], one[:, :total])


def test_stages_follow_each_other(dataset):
    stages = (
        LatentStage(tokens_per_batch=48, image_share=1.0, until=0.25),
        LatentStage(tokens_per_batch=24 * 8, image_share=0.0, chunks=(2,), until=0.5),
        LatentStage(tokens_per_batch=2 * 24 * 2, image_share=0.0, sizes=((32, 48),)),
    )
    made = batches(dataset, *stages)
    shapes = [tuple(made[step, 0, 1]["latents"].shape) for step in range(40)]
    assert {shape[2] for shape in shapes[:10]} == {1}
    assert {*shapes[10:20]} == {(2, 4, 4, 4, 6)}
    assert {*shapes[20:]} == {(2, 4, 2, 4, 6)}
    assert made[30, 0, 1]["progress"] == 0.75


def test_shares_and_sizes_are_met(dataset):
    """A size is drawn as often as it has samples: 3 of 4 videos are of 4 x 6 places."""
    made = batches(dataset, replace(VIDEOS, image_share=0.25, chunks=(1, 1, 2)), steps=200)
    shapes = Counter(tuple(made[step, 0, 1]["latents"].shape[2:]) for step in range(200))
    frames = Counter()
    for (length, _, _), count in shapes.items():
        frames[length] += count
    assert frames[1] / 200 == pytest.approx(0.25, abs=0.1)
    assert frames[4] / 200 == pytest.approx(0.25, abs=0.1)
    assert shapes[2, 3, 4] / frames[2] == pytest.approx(0.25, abs=0.12)
    assert {shape[1:] for shape in shapes} == {(4, 6), (3, 4)}


def test_batches_have_about_the_requested_number_of_tokens(dataset):
    for tokens in (300, 1000):
        made = batches(dataset, LatentStage(tokens_per_batch=tokens, image_share=0.3, chunks=(1, 2)))
        for step in range(20):
            b, _, f, y, x = made[step, 0, 1]["latents"].shape
            assert abs(b * f * y * x - tokens) <= f * y * x / 2
    assert batches(dataset, replace(VIDEOS, tokens_per_batch=1))[0, 0, 1]["latents"].shape[0] == 1


def test_videos_are_whole_chunks_and_images_first_latent_frames(dataset):
    """The embedder is causal: the first latent frame of any chunk is that of an image."""
    everything = [concat_chunks(dataset.latents(number)).grid for number in range(len(dataset))]
    made = batches(dataset, replace(VIDEOS, image_share=0.5, chunks=(1, 2)), steps=60)
    starts = {1: set(), 2: set(), 4: set()}
    for step in range(60):
        for row in made[step, 0, 1]["latents"]:
            found = [
                (number, start)
                for number, one in enumerate(everything)
                for start in range(0, one.shape[1], 2)
                if one.shape[2:] == row.shape[2:] and torch.equal(one[:, start : start + row.shape[1]], row)
            ]
            assert found
            starts[row.shape[1]].update(found)
    assert starts[4] == {(0, 0), (0, 2), (1, 0)}
    assert starts[2] == {(0, 0), (0, 2), (0, 4), (1, 0), (1, 2), (2, 0), (3, 0)}
    assert starts[1] == starts[2] | {(4, 0), (5, 0)}


def test_incomplete_last_chunks_are_not_used_as_video(tmp_path):
    """7 frames are one chunk of 5 and one that repeats its last frame; its first latent frame is an image."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    make_video(corpus / "a.mp4", 7, 32, 48)
    make_video(corpus / "b.mp4", 4, 32, 48)
    data = LatentDataset(export(make_model(tmp_path / "model"), corpus, tmp_path / "latents"))
    videos = batches(data, replace(VIDEOS, image_share=0.0))
    first = data.latents(0).grid[0].float()
    for step in range(20):
        assert all(torch.equal(row, first) for row in videos[step, 0, 1]["latents"])
    images = batches(data, replace(VIDEOS, image_share=1.0))
    seen = {float(row.sum()) for step in range(20) for row in images[step, 0, 1]["latents"]}
    assert len(seen) == 3


def test_images_of_other_embedders_are_images(hybrid):
    made = batches(hybrid, LatentStage(tokens_per_batch=100, image_share=1.0))
    images = hybrid.latents(2)
    for step in range(5):
        batch = made[step, 0, 1]
        assert batch["latents"].shape[2] == 1
        assert all(torch.equal(row, images.grid[0].float()) for row in batch["latents"])


def test_only_the_given_indices_are_drawn(dataset):
    made = LatentBatches(dataset, np.array([1, 3]), (VIDEOS,), 30, 0, class_conditional=True)
    labels = torch.cat([made[step, 0, 1]["label"] for step in range(30)])
    assert {*labels.tolist()} == {0, -1}


def test_captions_are_padded_to_one_length(dataset, tmp_path):
    source = find_text_encoder(make_t5(tmp_path / "t5"))
    embed_captions(dataset, source, CPU)
    states = CaptionStates(dataset, source.fingerprint)
    made = LatentBatches(dataset, np.array([0, 1, 2]), (VIDEOS,), 9, 0, states)
    for step in range(9):
        batch = made[step, 0, 1]
        assert batch["text"].shape[1:] == (8, states.width) and "label" not in batch
        for row, keep in zip(batch["text"], batch["text_mask"], strict=True):
            assert not row[~keep].any()
            assert any(torch.equal(row[keep], states.states(number)) for number in range(3))


def test_padding_of_texts():
    one, two = torch.ones(3, 4), torch.ones(0, 4)
    for longest, length in ((0, 8), (8, 8), (9, 16)):
        batch = pad_text([one, two], longest)
        assert batch["text"].shape == (2, length, 4)
        assert batch["text_mask"].sum(1).tolist() == [3, 0]
        assert torch.equal(batch["text"].any(-1), batch["text_mask"])


def test_missing_latents_raise(dataset, hybrid):
    with pytest.raises(ValueError, match="videos with 4 whole chunks .* --data.stages.0.chunks"):
        batches(dataset, replace(VIDEOS, chunks=(1, 4)))
    with pytest.raises(ValueError, match="no latents of images"):
        LatentBatches(hybrid, np.array([0, 1]), (LatentStage(10, image_share=0.1),), 2, 0)
    with pytest.raises(ValueError, match="no latents of videos"):
        batches(dataset, replace(VIDEOS, sizes=((64, 64),)))
    for stages in ((), (replace(VIDEOS, until=0.5),), (VIDEOS, replace(VIDEOS, until=0.5))):
        with pytest.raises(ValueError, match="must increase to 1.0"):
            batches(dataset, *stages)


@pytest.mark.parametrize(
    "changes", [{"tokens_per_batch": 0}, {"chunks": ()}, {"chunks": (0,)}, {"image_share": 1.1}]
)
def test_impossible_stages_raise(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        replace(VIDEOS, **changes)
