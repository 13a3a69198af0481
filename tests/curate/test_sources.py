"""Keys, captions and classes of the files that shards are made from."""

import json
import os
import tarfile
from pathlib import Path

import pytest
from curation_clips import LOOSE, moving, run, samples, write

from regen.curate.sources import key_of
from regen.data.shards import ShardSet


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.cls", "cat", "whole number from 0 on, got 'cat'"),
        ("a.cls", "-1", "got '-1'"),
        ("a.json", '{"class": true}', "got True"),
        ("a.json", '{"class": 1', "JSON of"),
        ("a.json", '{"caption": 5}', "must be a text"),
    ],
)
def test_invalid_sidecars_are_reported(tmp_path, name, content, words):
    write(tmp_path / "clips" / "a.mp4", moving(0))
    write(tmp_path / "clips" / "b.mp4", moving(1))
    (tmp_path / "clips" / name).write_bytes(content.encode())
    outcome = run(tmp_path / "clips", tmp_path / "out", LOOSE)
    assert outcome.counts == {"sidecar": 1}
    assert words in outcome.dropped[0].rejection.text


def test_classes_from_folders_are_numbered_by_their_names(tmp_path):
    for seed, name in enumerate(("zebra/a", "ape/b", "ape/c", "zebra/deep/d")):
        write(tmp_path / "clips" / f"{name}.mp4", moving(seed))
    (tmp_path / "clips" / "ape" / "b.cls").write_text("99")  # the folder counts
    run(tmp_path / "clips", tmp_path / "out", LOOSE, classes_from_folders=True)
    assert json.loads((tmp_path / "out" / "classes.json").read_text()) == {"ape": 0, "deep": 1, "zebra": 2}
    labels = {key: facts.label for key, facts in samples(tmp_path / "out").items()}
    assert labels == {"a": 2, "b": 0, "c": 0, "d": 1}


NAMES = [*"aAä-", "a b", "a.b", "a.b.c", "日本語", "🎬" * 20, "x" * 150, "x" * 151, "sub/a", "sub/日本語"]


def test_any_name_gives_a_key_of_its_own_that_tar_and_webdataset_take(tmp_path):
    first = write(tmp_path / "clips" / "a.mp4", moving(0))
    for name in NAMES[1:]:
        path = tmp_path / "clips" / f"{name}.mp4"
        path.parent.mkdir(exist_ok=True)
        os.link(first, path)
    odd = os.fsdecode(os.fsencode(tmp_path / "clips") + b"/\xff\xfe.mp4")
    Path(odd).write_bytes(first.read_bytes())
    keys = [key_of(tmp_path / "clips" / f"{name}.mp4", [tmp_path / "clips"]) for name in NAMES]
    keys.append(key_of(Path(odd), [tmp_path / "clips"]))
    assert len(set(keys)) == len(keys)
    for key in keys:
        assert key.isascii() and "." not in key and "/" not in key and len(key) < 90
    (tmp_path / "clips" / "a.txt").write_text("caption of a")
    run(tmp_path / "clips", tmp_path / "out", LOOSE)
    shards = ShardSet(str(tmp_path / "out"))
    with tarfile.open(tmp_path / "out" / "00000.tar") as tar:
        members = tar.getnames()
        captions = [name for name in members if name.endswith(".txt")]
        assert tar.extractfile(captions[0]).read() == b"caption of a"
    names = [shards.name(number) for number in range(len(shards))]
    assert sorted(set(members) - set(captions)) == sorted(names) and len(names) == len(keys)


def test_keys_differ_between_folders_of_the_same_names(tmp_path):
    for number, name in enumerate(("one/clips", "two/clips")):
        write(tmp_path / name / "a.mp4", moving(number))
    folders = [tmp_path / "one" / "clips", tmp_path / "two" / "clips"]
    assert len({key_of(folder / "a.mp4", folders) for folder in folders}) == 2
