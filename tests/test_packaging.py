"""What a stranger installs: the wheels, their sizes, and the command in an environment with nothing else of ours."""

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
from importlib.metadata import version
from pathlib import Path
from zipfile import ZipFile

import pytest

import unweave
from unweave.base.catalogue import INSTALL
from unweave.base.optional import require
from unweave.errors import MissingPackage

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "unweave": (ROOT, 30e6),
    "unweave_smollm2": (ROOT / "packages" / "unweave-smollm2", 95e6),
    "unweave_smollm2_features": (ROOT / "packages" / "unweave-smollm2-features", 95e6),
}
"""Where each is built from, and the bytes its wheel may have. PyPI refuses files over 100 MB."""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheels")
    for folder, _ in PACKAGES.values():
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
        subprocess.run(build, cwd=folder, check=True, capture_output=True)
    return {path.name.split("-")[0]: path for path in out.glob("*.whl")}


class Bare:
    """An environment with the packages we depend on, by their place, and none of ours."""

    def __init__(self, folder: Path):
        venv.create(folder, with_pip=False)
        self.folder = folder
        self.bin = folder / ("Scripts" if os.name == "nt" else "bin")
        config = {"base": str(folder), "platbase": str(folder)}
        site = Path(sysconfig.get_path("purelib", vars=config))
        # A line of a .pth file is a place to look in; the .pth files there, which name our sources, are not read.
        (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def install(self, *wheels: Path):
        pip = [sys.executable, "-m", "pip", "--python", str(self.folder), "install", "-q", "--no-deps", "--no-index"]
        subprocess.run([*pip, "--ignore-installed", *map(str, wheels)], check=True, capture_output=True)

    def run(self, *words: str | Path, command: str = "unweave") -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        kept |= {"UNWEAVE_CACHE": str(self.folder / "cache"), "HF_HUB_OFFLINE": "1", "HF_HOME": str(self.folder / "hf")}
        return subprocess.run(
            [str(self.bin / command), *map(str, words)], capture_output=True, text=True, env=kept, cwd=self.folder
        )


@pytest.fixture(scope="module")
def bare(wheels, tmp_path_factory):
    made = Bare(tmp_path_factory.mktemp("bare") / "environment")
    made.install(wheels["unweave"])
    return made


@pytest.mark.parametrize("name", PACKAGES)
def test_sizes_of_the_wheels(wheels, name):
    assert wheels[name].stat().st_size < PACKAGES[name][1]


def test_what_is_in_the_wheels(wheels):
    core = ZipFile(wheels["unweave"]).namelist()
    assert {"unweave/page/static/app.js", "unweave/data/organism/model/model.safetensors"} <= {*core}
    assert {name.split("/")[0] for name in core} == {"unweave", f"unweave-{unweave.__version__}.dist-info"}
    dictionary = ZipFile(wheels["unweave_smollm2"]).namelist()
    assert (
        sum(re.fullmatch(r"unweave_smollm2/dictionary/layer_\d+\.safetensors", name) is not None for name in dictionary)
        == 30
    )
    assert "unweave_smollm2_features/pages/pages.json" in ZipFile(wheels["unweave_smollm2_features"]).namelist()
    for name in PACKAGES:
        assert any(file.endswith("/LICENSE") for file in ZipFile(wheels[name]).namelist())


def test_the_command_in_a_bare_environment(bare):
    done = bare.run("--help")
    assert done.returncode == 0 and "trace" in done.stdout
    place = bare.run("-c", "import unweave; print(unweave.__file__)", command="python").stdout
    assert str(bare.folder) in place
    assert bare.run("--version").stdout.strip() == f"unweave {unweave.__version__}"


def test_a_trace_without_data_packages(bare, tiny_folders):
    model, dictionary = tiny_folders("llama", "relu")
    words = ("--model", model, "--transcoders", dictionary, "--ids", "0 7 3 41", "--out", "g.graph.safetensors")
    done = bare.run("trace", *words)
    assert done.returncode == 0, done.stderr
    assert unweave.Graph.load(bare.folder / "g.graph.safetensors").provenance.input_ids == (0, 7, 3, 41)


def test_data_that_is_missing_is_named_in_one_line(bare):
    done = bare.run("trace", "hello")
    assert done.returncode == 2 and done.stderr.splitlines()[-1] == (
        f"error the dictionary 'smollm2' is not installed; run: {INSTALL}"
    )
    assert "Traceback" not in done.stderr


def test_data_packages_are_found_once_installed(bare, wheels, tmp_path):
    other = Bare(tmp_path / "environment")
    other.install(*wheels.values())
    code = "import unweave; from unweave.features.pages import open_pages; t = unweave.read_transcoders('smollm2'); "
    done = other.run("-c", code + "print(len(t.widths), open_pages(None, t).folder)", command="python")
    assert done.stdout.startswith(f"30 {tmp_path}"), done.stderr


def test_a_missing_extra_is_named_in_one_line(monkeypatch, run):
    with pytest.raises(
        MissingPackage, match=r"^figures need the package nothing_here; run: pip install 'unweave\[plots\]'$"
    ):
        require("nothing_here", "plots", "figures")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, err = run("eval", "--model", "organism", "--card", "card")
    assert code == 2 and err.splitlines()[-1] == (
        "error figures need the package matplotlib; run: pip install 'unweave[plots]'"
    )


def test_versions_agree():
    """The versions in the files that people cite and install by."""
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.*)$", citation, re.MULTILINE)[1] == unweave.__version__
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for name in ("unweave-smollm2", "unweave-smollm2-features"):
        data = tomllib.loads((ROOT / "packages" / name / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        wanted = next(one for one in project["optional-dependencies"]["smollm2"] if re.match(rf"{name}\b(?!-)", one))
        assert wanted.startswith(f"{name}>={data['version'].rpartition('.')[0]},<")


def test_pinned_versions_are_those_installed():
    """`make` installs what constraints.txt pins; an environment that has drifted tests something else."""
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, _, wanted = line.partition("==")
            assert version(name).partition("+")[0] == wanted, name


def test_the_oldest_versions_are_those_that_are_claimed():
    """`make test-oldest` tries what pyproject.toml promises, no more and no less."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["plots"]]
    claimed = {re.split(r"[><=]", one)[0].lower(): re.search(r">=([\d.]+)", one)[1] for one in wanted}
    lines = (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8").splitlines()
    tried = dict(line.lower().split("==") for line in lines if "==" in line)
    assert tried.keys() == claimed.keys()
    for name, oldest in claimed.items():
        assert re.fullmatch(rf"{re.escape(oldest)}(\.0)*", tried[name]), name


def test_no_module_that_only_unix_has_is_needed(tiny_folders, tmp_path):
    """Import, load, attribute with rows in a file, save and load, as on a system without these."""
    model, dictionary = tiny_folders("llama", "relu")
    code = f"""
import mmap, os, sys
import torch, transformers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast  # theirs may need what they like
for name in ("resource", "fcntl", "pwd", "grp", "termios"): sys.modules[name] = None
for name in ("pread", "preadv", "posix_fallocate", "fork"): delattr(os, name)
del mmap.MAP_PRIVATE, mmap.PROT_READ, mmap.PROT_WRITE, mmap.MAP_SHARED
here, sys.platform = sys.platform, "elsewhere"
import unweave.base.mapped
sys.platform = here
import unweave
from unweave.attribution import budget
budget.ROWS_IN_MEMORY = 0
model = unweave.load({str(model)!r}, {str(dictionary)!r})
graph = unweave.attribute(model, [0, 7, 3, 41])
assert float(graph.residual().max()) < 1e-4
graph.save("g.graph.safetensors")
again = unweave.Graph.load("g.graph.safetensors")
assert (graph.dense() == again.dense()).all()
unweave.intervene(model, [0, 7, 3, 41], [unweave.ablate(next(iter(graph.nodes)))])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
