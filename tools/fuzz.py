"""Fuzzing: inputs are damaged at random, and each must end in a result or in one sentence, within its limits.

    python tools/fuzz.py --inputs 200 --seed 1 --out fuzz/           # 200 inputs of all kinds in turn
    python tools/fuzz.py --inputs 50 --kinds media latents --out fuzz/

Case i depends on the seed and on i alone. It runs in a worker process, which is used again until it hangs,
dies or grows, with a limit of time and of memory. An error that the commands show as one sentence is right;
any other exception, a time out, a lack of memory and the death of the process are findings. OUT/report.json
has the counts, OUT/findings/ the input and the traceback of one case of each. Exit code: 0 without any.
"""

import argparse
import io
import os
import random
import resource
import shutil
import sys
import time
import traceback
from collections import Counter
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType

import regen
from fuzz_mutations import mutate_file
from fuzz_targets import TARGETS, cases, make_all
from regen.io import write_json
from regen.pretrained.models import silence_logging
from regen.workers import ExtendDeadline, Failure, run_jobs

SOURCES = str(Path(regen.__file__).parent)
RESULT, SENTENCE, FINDING = "result", "sentence", "finding"
REPORT_EVERY = 100  # cases
PATIENCE = 10  # times the limit: other work, and the start of a worker process, take time too
Job = tuple[str, int]  # kind and number


@dataclass(frozen=True)
class Outcome:
    """What became of a case of a kind: RESULT, SENTENCE or FINDING, with place and traceback."""

    kind: str
    what: str
    text: str = ""
    place: str = ""
    trace: str = ""
    seconds: float = 0.0


def run_case(work: Path, seed: int, megabytes: int, job: Job, extend: ExtendDeadline) -> Outcome:
    """Mutate a copy of an input and use it."""
    _limit_memory(megabytes)
    silence_logging()
    folder = make_case(work, seed, job)
    begin, quiet = time.process_time(), io.StringIO()
    with redirect_stderr(quiet), redirect_stdout(quiet):
        what, text, place, trace = _use(job[0], folder)
    return Outcome(job[0], what, text, place, trace, time.process_time() - begin)


def make_case(work: Path, seed: int, job: Job) -> Path:
    """The folder of case `job`, a mutated copy of one that was made before."""
    kind, number = job
    draw = random.Random(f"{seed} {kind} {number}")
    sources = cases(work / "inputs", kind)
    source = draw.choice(sources)
    folder = work / "case" / "input"
    shutil.rmtree(folder.parent, ignore_errors=True)
    shutil.copytree(source, folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and TARGETS[kind].only(path))
    for path in draw.sample(files, min(len(files), draw.choice((1, 1, 1, 2)))):
        similar = sorted(other for other in draw.choice(sources).rglob("*") if other.is_file())
        mutate_file(path, draw.choice(similar), draw)
    return folder


def _use(kind: str, folder: Path) -> tuple[str, str, str, str]:
    try:
        TARGETS[kind].use(folder)
    except (ValueError, OSError) as error:
        if _raised_in(error.__traceback__).startswith(SOURCES):
            return SENTENCE, " ".join(str(error).split()), "", ""
        caught: BaseException = error
    except BaseException as error:
        caught = error
    else:
        return RESULT, "", "", ""
    trace = "".join(traceback.format_exception(caught))
    frames = [
        frame for frame in traceback.extract_tb(caught.__traceback__) if frame.filename.startswith(SOURCES)
    ]
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno} {frames[-1].name}" if frames else "?"
    return FINDING, f"{type(caught).__name__}: {' '.join(str(caught).split())[:200]}", place, trace


def _raised_in(trace: TracebackType | None) -> str:
    """The file of the innermost frame: that of the project where an error is meant for users."""
    return traceback.extract_tb(trace)[-1].filename


def _limit_memory(megabytes: int) -> None:
    """Limit the address space of this process to what it has at its first case and `megabytes` more."""
    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + (megabytes << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


class Report:
    """Counts by kind and outcome, sentences, and one case of each finding with its traceback."""

    def __init__(self, out: Path, seed: int) -> None:
        self.out, self.seed, self.done = out, seed, 0
        self.counts: Counter[str] = Counter()
        self.sentences: Counter[str] = Counter()
        self.slowest: dict[str, float] = {}
        self.findings: dict[str, dict[str, object]] = {}
        self.times: Counter[str] = Counter()

    def add(self, job: Job, found: Outcome, work: Path) -> None:
        self.done += 1
        self.counts[f"{found.kind} {found.what}"] += 1
        self.slowest[found.kind] = max(self.slowest.get(found.kind, 0.0), round(found.seconds, 2))
        if found.what == SENTENCE:
            self.sentences[f"{found.kind}: {found.text.replace(str(work / 'case' / 'input'), 'INPUT')}"] += 1
        elif found.what == FINDING:
            name = f"{found.kind}: {found.place or found.text}"
            self.times[name] += 1
            if name not in self.findings:
                place = self.out / "findings" / f"{job[0]}-{job[1]}"
                shutil.rmtree(place, ignore_errors=True)
                shutil.copytree(make_case(work, self.seed, job), place)
                (place / "traceback.txt").write_text(found.trace or found.text)
                self.findings[name] = {"case": place.name, "text": found.text}

    def write(self) -> None:
        findings = {name: facts | {"times": self.times[name]} for name, facts in self.findings.items()}
        content = {"inputs": self.done, "seed": self.seed, "counts": dict(sorted(self.counts.items()))}
        content |= {"slowest": self.slowest, "findings": findings}
        write_json(self.out / "report.json", content | {"sentences": dict(self.sentences.most_common())})

    def print(self) -> None:
        for name, count in sorted(self.counts.items()):
            print(f"{name:24} {count}")
        for name, facts in self.findings.items():
            print(f"FINDING {name}, {self.times[name]} times, as {facts['case']}: {facts['text']}")


def fuzz(arguments: argparse.Namespace) -> int:
    """Run the cases and write the report; returns the number of different findings."""
    work, kinds = arguments.out.absolute() / "work", arguments.kinds
    shutil.rmtree(work, ignore_errors=True)
    make_all(work / "inputs", kinds)
    report = Report(arguments.out, arguments.seed)
    numbers = range(arguments.first, arguments.first + arguments.inputs)
    jobs = [(kinds[number % len(kinds)], number) for number in numbers]
    function = partial(run_case, work, arguments.seed, arguments.megabytes)
    with closing(run_jobs(function, jobs, 1, PATIENCE * arguments.seconds)) as results:
        for job, found in results:
            if isinstance(found, Failure):
                found = Outcome(job[0], FINDING, f"{found.reason}: {found.text}")
            elif found.seconds > arguments.seconds:
                found = Outcome(job[0], FINDING, f"slow: {found.seconds:.0f} s", seconds=found.seconds)
            report.add(job, found, work)
            if report.done % REPORT_EVERY == 0:
                report.write()
    report.write()
    report.print()
    shutil.rmtree(work)
    return len(report.findings)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    # For the server that worker processes come from.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), str(Path(SOURCES).parent)])
    parser.add_argument("--inputs", type=int, default=200, help="number of cases")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--seconds", type=float, default=30.0, help="limit of processor time of a case")
    parser.add_argument("--megabytes", type=int, default=1500, help="memory limit of a case")
    parser.add_argument("--out", type=Path, required=True, help="folder of the report and the findings")
    return int(fuzz(parser.parse_args()) > 0)


if __name__ == "__main__":
    sys.exit(main())
