"""Record what the models and trainings of a checkout produce, and compare two recordings bit for bit.

    python tools/record_outputs.py record TREE DATA OUT
    python tools/record_outputs.py compare BEFORE AFTER

TREE is a checkout, DATA a folder of clips (made if absent). Everything runs in fp32 on one thread of the CPU:
latents and frames of every stored model at 1 and 4 steps, 20 updates of a recipe of each family, a generated
video. Only recordings of one machine can be compared.
"""

import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

FRAMES = 33
SIDE = 64
TRAININGS = {
    "toy": [],
    "toy-in-context": [],
    "toy-magvit2": ["--losses.adversarial.start", "5"],
    "toy-onedva": [],
}
GENERATORS = ["toy-t2v", "toy-c2v"]
PROMPT = (
    "two large plain purple triangles move right quickly on a dark background while the camera stays still"
)


def main(arguments: list[str]) -> int:
    """Record, compare, or (called by itself, in the tree to record) run the models."""
    match arguments:
        case ["record", tree, data, out]:
            return record(Path(tree).resolve(), Path(data).resolve(), Path(out).resolve())
        case ["compare", before, after]:
            return compare(Path(before), Path(after))
        case ["models", out]:
            return record_models(Path(out))
        case ["command", out, *command]:
            return record_command(Path(out), command)
        case _:
            print(__doc__, file=sys.stderr)
            return 2


def record(tree: Path, data: Path, out: Path) -> int:
    """Write OUT/recording.json: names and sha256 sums."""
    out.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1"}

    def run(*command: str) -> None:
        subprocess.run([sys.executable, *command], cwd=tree, env=environment, check=True)

    def regen(*command: str) -> None:
        run("-m", "regen", *command)

    if not data.exists():
        run("benchmarks/shapes.py", "--out", str(data), "--videos", "6", "--frames", "41")
    run(str(Path(__file__).resolve()), "models", str(out / "models.json"))
    sums: dict[str, Any] = json.loads((out / "models.json").read_text())
    loop = [
        "--loop.steps",
        "20",
        "--loop.eval-every",
        "20",
        "--loop.log-every",
        "1",
        "--loop.mixed-precision",
        "fp32",
        "--device",
        "cpu",
    ]
    for name, options in TRAININGS.items():
        regen("train", name, "--data", str(data), "--out", str(out / name), *loop, *options)
        sums |= training_sums(name, out / name)
    latents = out / "latents"
    regen("latents", "export", "--model", str(out / "toy"), "--data", str(data), "--out", str(latents),
          "--size", "64", "--dtype", "fp32", "--device", "cpu")  # fmt: skip
    sums |= {f"latents/{file.name}": tensors_sum(file) for file in sorted(latents.glob("*.safetensors"))}
    world = data.with_name(data.name + "-world")
    if not world.exists():
        options = ["--videos", "12", "--frames", "66", "--size", "32", "48"]
        run("benchmarks/world.py", "--out", str(world), *options)
    regen("latents", "export", "--model", "world-32x", "--data", str(world), "--out", str(out / "world"),
          "--size", "32x48", "--dtype", "fp32", "--device", "cpu")  # fmt: skip
    for name in GENERATORS:
        regen("train", name, "--data", str(out / "world"), "--out", str(out / name), *loop)
        sums |= training_sums(name, out / name)
    clip = "examples/butterfly.mp4"
    machine = ["--dtype", "fp32", "--device", "cpu"]
    for name, options in {
        "reconstruct": ["reconstruct", clip, "--size", "64", "--steps", "2", "--seams", "extend"],
        "onedva": ["reconstruct", clip, "--size", "64", "--model", "onedva-small", "--target-psnr", "27"],
        "generate": ["generate", "--prompt", PROMPT, "--frames", "33", "--steps", "4"],
    }.items():
        command = [*options, "-o", str(out / f"{name}.mp4"), *machine]
        run(str(Path(__file__).resolve()), "command", str(out / f"{name}.json"), *command)
        sums[f"video/{name}"] = json.loads((out / f"{name}.json").read_text())
    (out / "recording.json").write_text(json.dumps(sums, indent=1, sort_keys=True))
    print(f"{len(sums)} sums in {out / 'recording.json'}")
    return 0


def training_sums(name: str, run: Path) -> dict[str, Any]:
    """Losses of each update, and the values of the finished weights under whatever names."""
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    weights = sorted((run / "model").glob("*.safetensors"))
    return {
        f"train/{name}/losses": [row["loss"] for row in rows if "loss" in row],
        f"train/{name}/weights": tensors_sum(*weights),
    }


def tensors_sum(*files: Path) -> str:
    """Sum over the sums of all tensors, in the order of the sums: names and order don't count."""
    import torch
    from safetensors.torch import load_file

    sums = [
        sha256(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
        for file in files
        for value in load_file(file).values()
    ]
    return sha256("".join(sorted(sums)).encode()).hexdigest()


def record_command(out: Path, command: list[str]) -> int:
    """Run a command of `regen` and sum the frames that it writes, before video coding.

    The coder's own bytes depend on the addresses of its memory now and then.
    """
    from regen.cli import main as run_regen
    from regen.media.writer import VideoWriter

    total, write = sha256(), VideoWriter.write

    def sum_and_write(self: Any, image: Any, *arguments: Any, **options: Any) -> None:
        total.update(image.numpy().tobytes())
        write(self, image, *arguments, **options)

    VideoWriter.write = sum_and_write  # type: ignore[method-assign]
    status = run_regen(command)
    out.write_text(json.dumps(total.hexdigest()))
    return status


def record_models(out: Path) -> int:
    """Latents and frames of all stored models on the first frames of the example clip."""
    import av
    import torch

    from regen import AutoencoderLinear, AutoencoderMagvit2, AutoencoderOneDVA, AutoencoderRegen

    torch.set_num_threads(1)
    with av.open("examples/butterfly.mp4") as container:
        frames = [
            frame.to_ndarray(format="rgb24")
            for frame, _ in zip(container.decode(video=0), range(FRAMES), strict=False)
        ]
    top, left = (frames[0].shape[0] - SIDE) // 2, (frames[0].shape[1] - SIDE) // 2
    clip = torch.stack(
        [torch.from_numpy(frame[top : top + SIDE, left : left + SIDE].copy()) for frame in frames]
    )
    video = (clip.permute(3, 0, 1, 2)[None].float() / 127.5 - 1).contiguous()
    classes = {
        c.__name__: c for c in (AutoencoderLinear, AutoencoderMagvit2, AutoencoderOneDVA, AutoencoderRegen)
    }
    sums: dict[str, str] = {}
    for config in sorted(
        [*Path("checkpoints").glob("*/config.json"), *Path("src/regen/pretrained").glob("*/config.json")]
    ):
        kind = json.loads(config.read_text())["_class_name"]
        if kind not in classes:
            continue
        model = classes[kind].from_pretrained(config.parent).float().eval()
        with torch.no_grad():
            latents = model.encode(video[:, :, : model.chunk_frames]).latent_dist.mode()
            name = config.parent.name
            sums |= {f"{name}/latents/{part}": value_sum(value) for part, value in parts(latents).items()}
            for steps in (1, 4):
                generator = torch.Generator().manual_seed(0)
                decoded = model.decode(latents, steps=steps, generator=[generator]).sample
                sums[f"{name}/frames/{steps}"] = value_sum(decoded)
    out.write_text(json.dumps(sums, indent=1))
    return 0


def parts(latents: Any) -> dict[str, Any]:
    """The tensors of latents, by the order in which they lie in the signal."""
    import torch

    if isinstance(latents, torch.Tensor):
        return {"grid": latents}
    names = {"grid": ("grid", "structural"), "sequence": ("sequence",), "lengths": ("lengths",)}
    found = {
        part: next((getattr(latents, n) for n in tried if hasattr(latents, n)), None)
        for part, tried in names.items()
    }
    return {part: value for part, value in found.items() if value is not None}


def value_sum(value: Any) -> str:
    """Sum of a tensor's bytes."""
    import torch

    return sha256(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def compare(before: Path, after: Path) -> int:
    """Print what is equal and what differs; the exit status is 1 if anything does."""
    old, new = (json.loads((folder / "recording.json").read_text()) for folder in (before, after))
    names = sorted(old.keys() | new.keys())
    differing = [name for name in names if old.get(name) != new.get(name)]
    for name in names:
        print("DIFFERS" if name in differing else "equal  ", name)
    print(f"{len(names) - len(differing)} of {len(names)} are equal to the bit")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
