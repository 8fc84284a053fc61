"""What people add to graphs: never lost, whoever saves at the same time and whenever the machine stops."""

import json
import multiprocessing
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from serving import HOSTILE, document, page_of, write_document

from unweave.errors import FileError
from unweave.server import annotations as notes

FULL = {
    "pins": ["0_3_1", "1_4_1"],
    "supernodes": [{"id": "s1", "name": "pair", "members": ["0_3_1", "1_4_1"], "collapsed": False, "colour": "teal"}],
    "labels": {"0_3": "says a", "1_4_1": HOSTILE},
    "notes": "two lines\nand ünïcode",
    "layout": {"0_3_1": [1, 2.5]},
    "thresholds": {"node": 0.8, "edge": 0.98},
    "history": [{"changes": [], "kl": 0.1}],
    "from_a_newer_page": {"kept": [1, None, True]},
}


@pytest.fixture
def path(tmp_path):
    return write_document(tmp_path / "x.json")


@pytest.fixture
def page(path):
    return page_of(path.parent)


def put(page, revision, annotations, slug="x", **headers):
    return page.put(
        f"/api/graphs/{slug}/annotations",
        json={"annotations": annotations},
        headers={"If-Match": f'"{revision}"', **headers},
    )


def get(page, slug="x"):
    return page.get(f"/api/graphs/{slug}/annotations")


def test_what_is_saved_comes_back(page, path):
    saved = put(page, 0, FULL)
    assert (saved.status_code, saved.json(), saved.headers["etag"]) == (200, {"revision": 1}, '"1"')
    found = get(page)
    assert (found.json(), found.headers["etag"]) == ({"revision": 1, "annotations": FULL}, '"1"')
    assert page.get("/api/graphs/x/annotations", headers={"If-None-Match": '"1"'}).status_code == 304
    assert get(page_of(path)).json()["annotations"] == FULL  # another server
    written = json.loads((path.parent / "x.annotations.json").read_text())
    assert {key: written[key] for key in written if key != "annotations"} == {
        "format": "unweave annotations",
        "version": 1,
        "revision": 1,
        "graph": "x.json",
    }
    assert put(page, 1, {}).json() == {"revision": 2}
    assert get(page).json() == {"revision": 2, "annotations": {}}


def test_the_graph_file_is_never_touched(page, path):
    before = path.read_bytes(), path.stat().st_mtime_ns
    put(page, 0, FULL)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert sorted(os.listdir(path.parent)) == ["x.annotations.json", "x.json"]


def test_two_tabs_lose_nothing(page):
    assert put(page, 0, {"pins": ["0_3_1"]}).status_code == 200
    late = put(page, 0, {"pins": ["1_4_1"]})
    assert late.status_code == 409
    assert {key: late.json()[key] for key in ("revision", "annotations")} == {
        "revision": 1,
        "annotations": {"pins": ["0_3_1"]},
    }
    assert "merge" in late.json()["error"]
    assert put(page, 1, {"pins": ["0_3_1", "1_4_1"]}).json() == {"revision": 2}
    assert put(page, 7, {}).status_code == 409  # a revision that does not exist yet
    assert get(page).json()["annotations"] == {"pins": ["0_3_1", "1_4_1"]}


def test_many_tabs_at_once_all_get_their_pin_in(path):
    pages = [page_of(path.parent) for _ in range(3)]  # three servers on one folder

    def add(number):
        page = pages[number % 3]
        for _ in range(1000):
            now = get(page).json()
            if (
                put(page, now["revision"], {"pins": [*now["annotations"].get("pins", []), f"{number}_0_0"]}).status_code
                == 200
            ):
                return

    write_document(path, label="")
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(add, range(24)))
    saved = get(pages[0]).json()
    brought = {"0_3_1", "1_4_1"}
    assert set(saved["annotations"]["pins"]) == {f"{number}_0_0" for number in range(24)} | brought
    assert saved["revision"] == 24


def test_a_save_says_what_it_replaces(page):
    for header, status in ((None, 428), ("*", 400), ("x", 400), ('"-1"', 400), ("9" * 30, 400), ("", 400)):
        headers = {} if header is None else {"If-Match": header}
        answer = page.put("/api/graphs/x/annotations", json={"annotations": {}}, headers=headers)
        assert (answer.status_code, list(answer.json())) == (status, ["error"]), header
    assert put(page, 0, {}, **{"If-Match": 'W/"0"'}).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"null", b"[]", b"{}", b'{"annotations": 1}', b'{"annotations": {"pins": "0_3_1"}}',
        b'{"annotations": {"pins": [1]}}',
        b'{"annotations": {"supernodes": [{"name": "x"}]}}', b'{"annotations": {"layout": {"a": [1]}}}',
        b'{"annotations": {"layout": {"a": [1, NaN]}}}',
        b'{"annotations": {"layout": {"a": [1, 1e999]}}}', b'{"annotations": {"notes": "\\ud800"}}',
        b'{"annotations": {"notes": "\xff"}}',
        b'{"annotations": {"labels": {"a": null}}}', b"[" * 50_000,
    ],
)  # fmt: skip
def test_what_is_no_annotation_is_refused(page, body):
    headers = {"If-Match": '"0"', "Content-Type": "application/json"}
    answer = page.put("/api/graphs/x/annotations", content=body, headers=headers)
    assert (answer.status_code, list(answer.json())) == (400, ["error"]), answer.text
    assert len(answer.json()["error"].splitlines()) == 1
    assert get(page).json()["revision"] == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is damaged"), ("{", "is damaged"), ("[]", "is damaged"), ('{"format": "other"}', "is damaged"),
        ('{"format": "unweave annotations"}', "is damaged"),
        ('{"format": "unweave annotations", "version": 1, "revision": "x", "annotations": {}}', "is damaged"),
        ('{"format": "unweave annotations", "version": 1, "revision": 3, "annotations": {"pins": 5}}', "is damaged"),
        ('{"format": "unweave annotations", "version": 2, "revision": 3, "annotations": {}}', "newer version"),
    ],
)  # fmt: skip
def test_a_damaged_or_newer_file_is_neither_read_nor_replaced(page, path, content, words):
    sidecar = path.parent / "x.annotations.json"
    sidecar.write_text(content)
    for answer in (get(page), put(page, 0, FULL), put(page, 3, FULL)):
        assert answer.status_code == 422
        assert words in answer.json()["error"]
    assert sidecar.read_text() == content
    assert page.get("/api/graphs/x").status_code == 200  # the graph can still be looked at


def test_a_folder_that_cannot_be_written_says_so(path, monkeypatch):
    put(page := page_of(path), 0, {"notes": "kept"})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    answer = put(page, 1, {"notes": "lost?"})
    assert answer.status_code == 422 and "No space left" in answer.json()["error"]
    assert get(page).json() == {"revision": 1, "annotations": {"notes": "kept"}}
    assert sorted(os.listdir(path.parent)) == ["x.annotations.json", "x.json"]


def _save_forever(path):
    revision = notes.read(path).revision
    while True:
        done, saved = notes.save(path, revision, {"notes": f"{revision + 1} " * 20_000})
        assert done
        revision = saved.revision


def test_a_process_killed_while_saving_leaves_a_whole_revision(path):
    context, revisions = multiprocessing.get_context("fork"), []
    for _ in range(5):
        process = context.Process(target=_save_forever, args=(path,))
        process.start()
        begin = time.monotonic()
        while notes.read(path).revision < 3 + (revisions or [0])[-1] and time.monotonic() < begin + 20:
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        found = notes.read(path)
        assert found.annotations["notes"] == f"{found.revision} " * 20_000
        revisions.append(found.revision)
    assert revisions == sorted(set(revisions))
    assert [entry["slug"] for entry in page_of(path.parent).get("/api/graphs").json()["graphs"]] == [
        "x"
    ]  # what is left behind is no graph


def test_annotations_that_a_graph_brings_are_shown_first(page, path):
    brought = get(page).json()
    assert brought["revision"] == 0
    assert brought["annotations"] == {
        "pins": ["0_3_1", "1_4_1"],
        "supernodes": [{"id": "s1", "name": "pair", "members": ["0_3_1", "1_4_1"], "collapsed": True}],
    }
    put(page, 0, {"pins": []})
    assert get(page).json()["annotations"] == {"pins": []}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"pinnedIds": '["0_3_1"]', "supernodes": "[]"}, {"pins": ["0_3_1"]}),  # as some tools write lists
        ({"pinnedIds": "0_3_1,1_4_1"}, {"pins": ["0_3_1", "1_4_1"]}),
        ({"pinnedIds": ["0_3-0", "9_9-0", "no", None, 5]}, {"pins": ["0_3_1"]}),  # Anthropic's names, and unknown ones
        ({"pinnedIds": ["0_1_1"]}, {"pins": ["1_error_mlp_1"]}),  # the peer's name of an error
        (
            {"supernodes": [["x"], [], "y", ["z", "1_4_1"]]},
            {"pins": ["1_4_1"], "supernodes": [{"id": "s1", "name": "z", "members": ["1_4_1"], "collapsed": True}]},
        ),
        ({"clerps": [["0_3_1", "says a"], ["?", "b"], 3]}, {"labels": {"0_3_1": "says a"}}),
        ({"pinnedIds": 7, "supernodes": {"a": 1}, "clerps": "[" * 99}, {}),
    ],
)  # fmt: skip
def test_what_other_tools_wrote_is_understood(tmp_path, given, expected):
    (tmp_path / "x.json").write_text(json.dumps(document() | {"qParams": given}))
    assert get(page_of(tmp_path)).json() == {"revision": 0, "annotations": expected}


def test_an_unreadable_sidecar_is_an_error_of_its_own(path):
    (path.parent / "x.annotations.json").mkdir()
    with pytest.raises(FileError, match="cannot read"):
        notes.read(path)
