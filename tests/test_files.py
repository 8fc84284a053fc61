"""Files that are written: whole or not at all, nothing else replaced, nothing left behind."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unweave.base.files import check_writable, write_atomically
from unweave.base.words import name_of_question
from unweave.errors import FileError


def put(path, text="new"):
    return write_atomically(path, lambda name: Path(name).write_text(text))


@pytest.mark.parametrize("write", [put, check_writable])
def test_devices_and_pipes_are_refused(tmp_path, write):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/null")
    for path in (tmp_path / "pipe", tmp_path / "link", "/dev/null", "/dev/stdout"):
        with pytest.raises(FileError, match="is a device or a pipe"):
            write(path)
    for path in (tmp_path, tmp_path / ("x" * 300), tmp_path / ("x" * 250), tmp_path / "a\0b"):
        with pytest.raises(FileError, match="cannot write"):
            write(path)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_link_stays_a_link_and_permissions_stay(tmp_path):
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "file", tmp_path / "link"
    put(target, "old")
    target.chmod(0o640)
    link.symlink_to("real/file")
    assert put(link) == link
    assert link.is_symlink() and target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(FileError, match="cannot write"):
        put(tmp_path / "a")


def test_leftovers_of_a_killed_write_are_cleared_those_of_a_live_one_are_not(tmp_path):
    code = (
        "import os, sys\nfrom unweave.base.files import write_atomically\n"
        "write_atomically(sys.argv[1], lambda name: (open(name, 'w').write('x'), os.kill(os.getpid(), 9)))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "f")], check=False).returncode == -9
    (left,) = tmp_path.iterdir()
    (tmp_path / ".f.txt").write_text("mine")

    def slow(name):
        put(tmp_path / "f", "in between")
        assert os.path.exists(name)
        Path(name).write_text("last")

    write_atomically(tmp_path / "f", slow)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".f.txt", "f"] and not left.exists()
    assert (tmp_path / "f").read_text() == "last"


@given(st.lists(st.tuples(st.text(min_size=1), st.sampled_from([None, " Paris", " Lyon"])), max_size=6, unique=True))
def test_other_questions_have_other_names(questions):
    names = [name_of_question(prompt.encode("utf-8", "replace").decode(), {"target": t}) for prompt, t in questions]
    kept = {(prompt.encode("utf-8", "replace").decode(), t) for prompt, t in questions}
    assert len(set(names)) == len(kept)
    assert all(name.isascii() and name.replace("-", "").isalnum() and len(name) <= 57 for name in names)
