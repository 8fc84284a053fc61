"""Kill long work again and again, and compare what comes out in the end with an undisturbed run, bit by bit.

    python benchmarks/kills.py [conversion | conversions | pages | prompts | smollm2 | validate] [--kills 30]

Each round starts the command (in a fork that has its imports), waits until it has used a random share of the processor
time that the undisturbed run took, kills it (SIGKILL), and starts it again in the same place; a round that came to its
end first is no kill, and the next begins anew. After the last kill it runs to its end. `conversions` runs two at once
in one cache and kills one of them, in every other round both. `prompts` traces the organism, `smollm2` the default
model.
"""

import argparse
import hashlib
import importlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import duckdb

from unweave.cli.entry import run
from unweave.models.smollm2 import default_model

CONVERT = ["convert the default model"]
PRELOADED = (
    "unweave.cli.main unweave.many.run unweave.validation.validate unweave.features.collect gguf accelerate "
    "transformers.models.llama.modeling_llama transformers.models.auto.modeling_auto "
    "transformers.modeling_gguf_pytorch_utils"
).split()
KINDS = ("conversion", "conversions", "pages", "prompts", "smollm2", "validate")
SUMS = [f"{a} + {b} =" for a in range(11, 51, 8) for b in (7, 25, 38, 49)]
TEXTS = [
    f"The {what} of {of} is"
    for what in ("capital", "largest city", "language")
    for of in ("France", "Japan", "Italy", "Peru")
]


class Child:
    """A process forked from this one, which has imported what takes seconds, so that the kills meet the work itself."""

    def __init__(self, words: list[str], folder: Path):
        self.pid, self.code = os.fork(), None
        if self.pid == 0:
            self.work(words, folder)

    def work(self, words: list[str], folder: Path) -> None:
        """What the command does, in a folder, with a cache of its own where that is what is tested."""
        os.chdir(folder)
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 1), os.dup2(nowhere, 2)
        try:
            if words == CONVERT:
                os.environ["UNWEAVE_CACHE"] = str(folder / "cache")
                default_model()
                os._exit(0)
            sys.argv = ["unweave", *words]
            run()
        finally:
            os._exit(1)

    def wait(self, options: int = 0) -> int | None:
        """The exit code; None: it goes on."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, options)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def kill(self) -> None:
        """SIGKILL, unless it has ended."""
        if self.wait(os.WNOHANG) is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def used(self) -> float:
        """Processor seconds so far; endless where it has ended."""
        if self.wait(os.WNOHANG) is not None:
            return float("inf")
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def finish(words: list[str], folder: Path) -> float:
    """Run to the end; the processor seconds it took, which other work on the machine hardly changes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    if code := Child(words, folder).wait():
        sys.exit(f"{' '.join(words)} ended with {code}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def content(folder: Path, without: tuple[str, ...]) -> dict[str, str]:
    """The hash of every file; of JSON and graph headers less what differs from run to run."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(stable(path, without)).hexdigest()
        for path in (sorted(folder.rglob("*")) if folder.is_dir() else [folder])
        if path.is_file() and path.name not in (".lock", "sha256.json")
    }


def stable(path: Path, without: tuple[str, ...]) -> bytes:
    """A file's bytes, times and durations in it left out."""
    body = path.read_bytes()
    if path.suffix == ".safetensors":
        size = int.from_bytes(body[:8], "little")
        header = json.loads(body[8 : 8 + size])
        return json.dumps(less(header, without), sort_keys=True).encode() + body[8 + size :]
    if path.suffix in (".json", ".jsonl"):
        return json.dumps([less(json.loads(line), without) for line in lines(path)], sort_keys=True).encode()
    if path.name == "index.parquet":
        rows = duckdb.sql(f"select to_json(t) from read_parquet('{path}') t order by id").fetchall()
        return json.dumps([less(json.loads(row), without) for (row,) in rows]).encode()
    return body


def lines(path: Path) -> list[str]:
    """One document, or one a line."""
    text = path.read_text(encoding="utf-8")
    return sorted(text.splitlines()) if path.suffix == ".jsonl" else [text]


def timed(key: str, value: object) -> bool:
    """Whether a checksum covers the time at which a graph was traced."""
    return key == "provenance" and isinstance(value, int)


def less(content: object, without: tuple[str, ...]) -> object:
    """JSON without some keys, in the JSON inside texts too."""
    if isinstance(content, dict):
        return {
            key: less(value, without) for key, value in content.items() if key not in without and not timed(key, value)
        }
    if isinstance(content, list):
        return [less(value, without) for value in content]
    if isinstance(content, str) and content.startswith("{"):
        with suppress(ValueError):  # pieces of a vocabulary begin so too
            return less(json.loads(content), without)
    return content


def case(name: str, folder: Path) -> tuple[list[str], Path]:
    """The command, and the folder whose content counts."""
    if name.startswith("conversion"):
        return CONVERT, folder / "cache"
    if name == "pages":
        text = folder / "text.txt"
        random.seed(0)
        words = [f"{random.randrange(10, 60)} + {random.randrange(10, 60)} =" for _ in range(2000)]
        text.write_text("\n".join(words))
        build = [
            "features",
            "build",
            "--model",
            "organism",
            "--text",
            "text.txt",
            "--tokens",
            "4000",
            "--context",
            "48",
        ]
        return [*build, "--out", "pages"], folder / "pages"
    if name in ("prompts", "smollm2"):
        model, texts = ("organism", SUMS) if name == "prompts" else ("smollm2", TEXTS)
        (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
        limit = ["--max-features", "300"] if name == "smollm2" else []
        trace = ["trace", "--prompts", "prompts.jsonl", "--model", model, *limit, "--out", "out"]
        return trace, folder / "out"
    graph = folder.parent / "g.graph.safetensors"  # one for both runs: it holds the time at which it was traced
    if not graph.exists():
        finish(["trace", "36 + 25 =", "--model", "organism", "--out", str(graph)], folder)
    shutil.copy(graph, folder)
    few = ["--ablations", "30", "--pairs", "6", "--disturbances", "4"]
    return ["validate", graph.name, "--model", "organism", *few], folder / "g.validation.json"


def disturbed(
    name: str, words: list[str], result: Path, kills: int, seconds: float, seed: int, same
) -> tuple[int, int]:
    """Kill the work under way so many times; the rounds that took, and the results some of them left whole, each
    compared with the undisturbed one."""
    generator, met, number, ended, folder = random.Random(seed), 0, 0, 0, result.parent
    while met < kills:
        number += 1
        children = [Child(words, folder) for _ in range(2 if name == "conversions" else 1)]
        one, share = generator.choice(children), generator.uniform(0.05, 0.95)
        while one.used() < share * seconds:
            time.sleep(0.01)
        met += one.wait(os.WNOHANG) is None
        one.kill()
        for child in children:
            child.wait() if name == "conversions" and number % 2 else child.kill()  # the other one ends undisturbed
        if one.code == 0 or (name.startswith("conversion") and (folder / "cache").is_dir() and whole(folder)):
            ended += 1
            if not same(result):
                sys.exit(f"{name}: after round {number} the result differs from the undisturbed one")
            shutil.rmtree(result) if result.is_dir() else result.unlink()
    return number, ended


def whole(folder: Path) -> bool:
    """Whether a conversion has come to its end."""
    return any((folder / "cache").glob("smollm2*/config.json"))


def main() -> None:
    """Run one kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for name in PRELOADED:
        importlib.import_module(name)
    without = ("created", "seconds", "attribution_seconds", "time", "started", "file", "folder", "bytes")
    with tempfile.TemporaryDirectory() as base:
        quiet, killed = Path(base) / "quiet", Path(base) / "killed"
        quiet.mkdir(), killed.mkdir()
        words, result = case(given.kind, quiet)
        seconds = finish(words, quiet)
        expected = content(result, without)
        words, result = case(given.kind, killed)

        def same(at: Path) -> bool:
            found = content(at, without)
            return all(found.get(name) == digest for name, digest in expected.items())

        rounds, ended = disturbed(given.kind, words, result, given.kills, seconds, given.seed, same)
        if given.kind.startswith("conversion"):
            time.sleep(11)  # after which what is left counts as left
        finish(words, killed)
        found = content(result, without)
    different = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    same = len(expected) - len([name for name in different if name in expected])
    print(
        f"{given.kind}: {given.kills} kills in {rounds} rounds, {ended} results whole on the way and equal; "
        f"undisturbed {seconds:.1f} s of processor time, {len(expected)} files; {same} equal "
        f"bit by bit; different or left behind: {different or 'none'}"
    )


if __name__ == "__main__":
    main()
