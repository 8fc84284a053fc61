"""The documentation: links resolve, code runs and prints what stands under it, every option is described, the site
builds."""

import ast
import contextlib
import io
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import typer.main
import yaml

import unweave
from unweave.cli.main import app

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
from docs_hooks import summary

PAGES = sorted(
    path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("packages/**/*.md"))
    if not {"node_modules", ".venv", "site"} & {*path.parts}
)
IDS = [str(path.relative_to(ROOT)) for path in PAGES]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def prose(text):
    """A page without its code."""
    return re.sub(r"`[^`\n]*`", "", BLOCK.sub("", text))


def anchors(path):
    """What links into a page can name: its headings, as GitHub and the site call them."""
    found, seen = set(), Counter()
    for heading in re.findall(r"^#+ (.*)$", BLOCK.sub("", path.read_text(encoding="utf-8")), re.MULTILINE):
        slug = (
            re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()).strip().replace(" ", "-")
        )
        found.add(slug if not seen[slug] else f"{slug}-{seen[slug]}")
        seen[slug] += 1
    return found


def blocks(path, kind):
    return [text for name, text in BLOCK.findall(path.read_text(encoding="utf-8")) if name == kind]


@pytest.mark.parametrize("path", PAGES, ids=IDS)
def test_links_resolve(path):
    for text, link in re.findall(r"\[([^\]]*)\]\(([^)\s]+)\)", prose(path.read_text(encoding="utf-8"))):
        if re.match(r"https?:|mailto:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), f"[{text}]({link}): no such file"
        if anchor:
            assert anchor in anchors(target), f"[{text}]({link}): no such heading"


@pytest.mark.parametrize(
    "path",
    [path for path in PAGES if path.name not in ("LOG.md", "CHANGELOG.md", "CONTRIBUTING.md")],
    ids=str,
)
def test_the_documentation_names_no_internal_module(path):
    folders = {home.name for home in (ROOT / "src" / "unweave").iterdir() if (home / "__init__.py").is_file()}
    text = path.read_text(encoding="utf-8")
    found = {
        name for name in re.findall(r"\bunweave\.([a-z_]+)\b", text) if name in folders - {*unweave.__all__, "compat"}
    }
    assert not found, f"unweave.{found.pop()} is internal"
    assert not re.search(r"(from|import) unweave\.(?!compat)", text)


def test_every_public_name_stands_in_the_documentation():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert summary() in page, "public names have changed: run python scripts/docs_hooks.py"
    assert all(f"`{name}`" in page for name in unweave.__all__)


@pytest.mark.parametrize("name", [name for name in unweave.__all__ if name.islower() and not name.startswith("_")])
def test_every_public_function_says_how_it_is_called(name):
    text = getattr(unweave, name).__doc__
    assert text and ">>>" in text, f"unweave.{name} has no example in its docstring"


@pytest.mark.parametrize("path", PAGES, ids=IDS)
def test_python_in_the_documentation_is_python_and_its_names_exist(path):
    for text in blocks(path, "python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "unweave":
                assert node.attr in unweave.__all__, f"unweave.{node.attr} is no public name"


def test_the_walk_prints_what_stands_under_its_code(tmp_path, monkeypatch):
    page = ROOT / "docs" / "walk.md"
    found = [
        (kind, text) for kind, text in BLOCK.findall(page.read_text(encoding="utf-8")) if kind in ("python", "text")
    ]
    names = {}
    for (kind, code), (under, wanted) in zip(found[::2], found[1::2], strict=True):
        assert (kind, under) == ("python", "text")
        with contextlib.redirect_stdout(io.StringIO()) as said:
            exec(compile(code, page, "exec"), names)
        assert said.getvalue() == wanted, code
    claims = tmp_path / "claims.yaml"
    claims.write_text(blocks(page, "yaml")[0], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    from unweave.validation.claims import check_claims, read_claims

    verdicts = list(check_claims(read_claims(claims), names["model"]))
    assert len(verdicts) == 2 and all(verdict.holds for verdict in verdicts)


def test_the_readme_runs_and_is_short(tmp_path, monkeypatch, capsys):
    readme = ROOT / "README.md"
    assert len(readme.read_text(encoding="utf-8").splitlines()) <= 120
    (code,) = blocks(readme, "python")
    assert '"smollm2"' in code and '"The capital of France is"' in code
    small = code.replace('"smollm2"', '"organism"').replace("The capital of France is", "the capital of Texas is")
    monkeypatch.chdir(tmp_path)
    exec(compile(small, readme, "exec"), {})
    assert capsys.readouterr().out.count("\n") >= 3
    assert list(tmp_path.glob("*.graph.safetensors"))


def commands(command, name=""):
    """Every command by its name, and its options."""
    if hasattr(command, "commands"):
        for word, one in command.commands.items():
            yield from commands(one, f"{name} {word}".strip())
    else:
        yield name, [option for one in command.params for option in one.opts if option.startswith("--")]


COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_described(name):
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert f"unweave {name}" in text
    for option in COMMANDS[name]:
        assert re.search(rf"{option}\b", text), f"unweave {name} {option} is not in docs/cli.md"


def test_the_site_has_every_page(tmp_path):
    """`make docs`, which is strict: pages outside the contents, links and headings that do not exist, and examples and
    arguments in docstrings that cannot be read are errors; and nothing in the pages is loaded from elsewhere."""
    kept = os.environ | {"PYTHONPATH": str(ROOT / "src"), "NO_MKDOCS_2_WARNING": "1"}
    build = [sys.executable, "-m", "mkdocs", "build", "-q", "-d", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, env=kept)
    assert done.returncode == 0, done.stderr
    api = (tmp_path / "api.html").read_text(encoding="utf-8")
    for name, home in unweave._HOMES.items():
        assert name == "__version__" or f'id="unweave.{home}.{name}"' in api
    for page in tmp_path.rglob("*.html"):
        assert not re.search(r"<(script|link|img)[^>]*(src|href)=\"?(https?:)?//", page.read_text(encoding="utf-8")), (
            page
        )


def test_the_contents_of_the_site_and_of_the_index_agree():
    def listed(part):
        return (
            [part]
            if isinstance(part, str)
            else [page for one in part for value in one.values() for page in listed(value)]
        )

    contents = {*listed(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])} - {"index.md"}
    links = {*re.findall(r"\]\((?!\.\.)([^)#]+\.md)", (ROOT / "docs" / "index.md").read_text(encoding="utf-8"))}
    assert contents == links
