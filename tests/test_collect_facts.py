"""The texts about the world: held out by entity, none twice, the same for the same seed."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "collect_facts.py"
ENTRIES = """\
hot
     adj 1: used of physical heat; "hot stove"; "a hot topic for everyone"
            [ant: {cold}]
warmth
     n 1: the sensation caused by heat energy
Hot Springs
     n 1: a town in Arkansas
"""


def collect(out: Path, *words: str) -> dict[str, list[dict]]:
    done = subprocess.run([sys.executable, str(SCRIPT), str(out), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {
        part: [json.loads(line) for line in (out / part / "facts.jsonl").read_text().splitlines()]
        for part in ("train", "held-out")
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, dict[str, list[dict]]]:
    folder = tmp_path_factory.mktemp("facts")
    (folder / "wn.dict.dz").write_bytes(gzip.compress(ENTRIES.encode()))
    return folder, collect(folder / "a", "--wordnet", str(folder / "wn.dict.dz"))


def test_entities_are_in_one_part_and_no_text_comes_twice(made):
    _, parts = made
    train, held_out = ({row["entity"] for row in parts[part]} for part in ("train", "held-out"))
    assert not train & held_out and 0.03 < len(held_out) / len(train | held_out) < 0.07
    texts = [json.dumps(row.get("text") or row["messages"]) for rows in parts.values() for row in rows]
    assert len(texts) == len(set(texts)) > 50_000
    assert any("messages" in row for row in parts["train"])
    assert not any("{" in text for text in texts if "int" not in text and "function" not in text and "role" not in text)


def test_wordnet_gives_definitions_examples_and_opposites(made):
    _, parts = made
    said = [row.get("text", "") for rows in parts.values() for row in rows if row["source"] == "dict-wn"]
    joined = "\n".join(said) + json.dumps(parts)
    assert "used of physical heat" in joined and "a hot topic for everyone" in joined and "cold" in joined
    assert "the sensation caused by heat energy" in joined and "Arkansas" not in "\n".join(said)


def test_the_same_seed_gives_the_same_bytes_and_text_to_avoid_is_left_out(made):
    folder, _ = made
    wordnet = ("--wordnet", str(folder / "wn.dict.dz"))
    collect(folder / "b", *wordnet)
    for part in ("train", "held-out"):
        one, other = ((folder / name / part / "facts.jsonl").read_bytes() for name in ("a", "b"))
        assert one == other
    (folder / "known.jsonl").write_text(json.dumps({"text": "warmth: the sensation\ncaused by heat energy"}) + "\n")
    rest = json.dumps(collect(folder / "c", *wordnet, "--avoid", str(folder / "known.jsonl")))
    assert "caused by heat energy" not in rest and "used of physical heat" in rest


def test_a_file_that_is_missing_is_named_in_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path), "--geonames", str(tmp_path / "none")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and done.stderr.startswith("error: cannot read") and done.stderr.count("\n") == 1
