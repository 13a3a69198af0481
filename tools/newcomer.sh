#!/usr/bin/env bash
# A newcomer's first hour: the wheel in a fresh environment, another folder, no clone on the path, every command of README.md.
#   tools/newcomer.sh          installs all packages in the versions of requirements.lock; the first video is the example clip
#   tools/newcomer.sh .venv    borrows the packages (not regen) of an environment that has them; all videos are tiny
# Published models come from a mirror: nothing needs a network but a package index. $PYTHON names the interpreter.
set -euo pipefail
clone=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
lender=${1:+$(cd "$1" && pwd)}
python=${PYTHON:-${lender:+$lender/bin/}python3}
extras=(text shards plots)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_QUIET=1

# Wheel and source distribution, as an index has them: the wheel is built from the other, so both have to be complete.
builder=$lender
if [ -z "$builder" ]; then
  builder=$work/builder
  "$python" -m venv "$builder"
  "$builder/bin/pip" install --constraint "$clone/requirements.lock" build setuptools twine
fi
"$builder/bin/python" -m build --no-isolation --outdir "$work/dist" "$clone" >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
"$builder/bin/python" -m twine check --strict "$work"/dist/*
tar -tzf "$work"/dist/*.tar.gz >"$work/files"
for file in docs/method.md examples/reconstruct.py examples/butterfly.mp4 notebooks/first-video.ipynb LICENSE; do
  grep -q "/$file$" "$work/files" || { echo "The source distribution lacks $file."; exit 1; }
done

SECONDS=0
"$python" -m venv "$work/venv"
if [ -n "$lender" ]; then
  "$lender/bin/python" "$clone/tools/borrow_packages.py" "$work/venv" "${extras[@]}"
  "$work/venv/bin/pip" install --no-deps "$work"/dist/*.whl
else
  "$work/venv/bin/pip" install --constraint "$clone/requirements.lock" "$(echo "$work"/dist/*.whl)[$(IFS=,; echo "${extras[*]}")]"
fi
echo "Installed after $SECONDS s."

# What the README takes for granted: a video, folders of videos, and that the models are published.
export PATH="$work/venv/bin:$PATH" HF_HOME="$work/hub" HF_HUB_OFFLINE=1 REGEN_MIRROR="file://$work/mirror"
mkdir -p "$work/mirror" "$work/elsewhere" && cd "$work/elsewhere"
ln -s "$clone/checkpoints" "$work/mirror/regen-video"
"$work/venv/bin/python" "$clone/benchmarks/shapes.py" --out VIDEOS --videos 3 --frames 34 --size 128 128 >/dev/null
"$work/venv/bin/python" "$clone/benchmarks/shapes.py" --out CLIPS --videos 1 --frames 5 --size 64 64 >/dev/null
for video in VIDEOS/*.mp4; do echo "shapes drift over a texture" >"${video%.mp4}.txt"; done  # captions, for text to video
cp CLIPS/shapes_0000.mp4 in.mp4
if [ -z "$lender" ]; then cp "$clone/examples/butterfly.mp4" in.mp4; fi
case $(python -c 'import regen; print(regen.__file__)') in "$work"/venv/*) ;; *) echo "regen is not from the wheel."; exit 1 ;; esac
python "$clone/tools/readme_commands.py" "$clone/README.md"
