"""Rows in memory, in files, under any plan, and after any interruption: the same graph."""

import signal
from pathlib import Path

import fresh
import pytest
import torch
from conftest import PROMPT
from hypothesis import given
from hypothesis import strategies as st

import unweave
from unweave.attribution import budget, work
from unweave.attribution.budget import MemoryPlan
from unweave.attribution.rowstore import RowStore
from unweave.base import parsing
from unweave.errors import FileError, OptionError

FACTS = {"format": "unweave partial graph", "prompt": [1, 2]}
RECORDS = [{3: [1.0, 2.0], 7: []}, {1: [0.5]}, {9: [4.0, 5.0, 6.0], 2: [-1.0]}]
LARGE = MemoryPlan(6144, 64, 1 << 29, on_disk=False, mapped=False, memory=0, disk=0)


def written(path: Path) -> list[int]:
    """Sizes of the file after its head and after every record."""
    store, sizes = RowStore(torch.float32, path, FACTS), [path.stat().st_size]
    for record in RECORDS:
        store.add(torch.tensor(list(record)), [torch.tensor(row) for row in record.values()])
        sizes.append(path.stat().st_size)
    store.close(remove=False)
    return sizes


def found(path: Path, facts: dict = FACTS) -> dict[int, list[float]]:
    store = RowStore(torch.float32, path, facts)
    rows = {name: store.row(name).tolist() for name in range(10) if name in store}
    store.close(remove=False)
    return rows


def first(records: int) -> dict[int, list[float]]:
    return {name: row for record in RECORDS[:records] for name, row in record.items()}


def test_rows_outlive_the_process(tmp_path):
    written(tmp_path / "rows")
    assert found(tmp_path / "rows") == first(3)
    assert found(tmp_path / "rows", {**FACTS, "prompt": [1, 3]}) == {}
    assert found(tmp_path / "rows") == {}, "what was about something else is gone, not kept beside"


@given(cut=st.floats(0, 1), damage=st.sampled_from(["cut", "flip"]))
def test_a_record_that_is_not_whole_ends_the_file(tmp_path_factory, cut, damage):
    path = tmp_path_factory.mktemp("rows") / "rows"
    sizes = written(path)
    at = int(cut * (sizes[-1] - 1))
    data = bytearray(path.read_bytes())
    path.write_bytes(data[:at] if damage == "cut" else data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :])
    whole = sum(size <= at for size in sizes[1:])
    assert found(path) == (first(whole) if at >= sizes[0] else {})
    store = RowStore(torch.float32, path, FACTS)  # and it can be written on
    store.add(torch.tensor([8]), [torch.tensor([2.5])])
    store.close(remove=False)
    assert found(path)[8] == [2.5]


def test_two_at_work_on_one_file(tmp_path):
    store = RowStore(torch.float32, tmp_path / "rows", FACTS)
    with pytest.raises(FileError, match="in use"):
        RowStore(torch.float32, tmp_path / "rows", FACTS)
    store.close()
    assert not (tmp_path / "rows").exists()
    with pytest.raises(FileError, match="cannot write"):
        RowStore(torch.float32, tmp_path / "no folder" / "rows", FACTS)


def same(one: unweave.Graph, other: unweave.Graph, tolerance: float = 0.0) -> None:
    assert one.nodes.ids == other.nodes.ids
    assert torch.equal(one.rows.start, other.rows.start)
    assert torch.equal(one.rows.column, other.rows.column)
    assert (one.rows.value - other.rows.value).norm() <= tolerance * one.rows.value.norm()
    assert float(other.residual().max()) <= 1e-4


@pytest.fixture(scope="module")
def graphs(tiny):
    return {
        (kind, most): unweave.attribute(tiny("llama", kind), PROMPT, max_features=most)
        for kind in ("skip", "clt")
        for most in (None, 20)
    }


@given(
    kind=st.sampled_from(["skip", "clt"]), most=st.sampled_from([None, 20]), columns=st.integers(1, 300),
    least=st.integers(1, 20),
    vectors=st.sampled_from([0, 1 << 29]), on_disk=st.booleans(), mapped=st.booleans(),
)  # fmt: skip
def test_every_plan_gives_the_same_graph(tiny, graphs, kind, most, columns, least, vectors, on_disk, mapped):
    plan = MemoryPlan(columns, least, vectors, on_disk, mapped, 0, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "make_plan", lambda *asked: plan)
        same(graphs[kind, most], unweave.attribute(tiny("llama", kind), PROMPT, max_features=most), 1e-5)


@pytest.mark.parametrize(
    "plan", [LARGE._replace(on_disk=True), LARGE._replace(mapped=True), LARGE._replace(vectors_kept=0)]
)
@pytest.mark.parametrize("most", [None, 20])
def test_files_change_no_bit(tiny, graphs, monkeypatch, plan, most):
    monkeypatch.setattr(work, "make_plan", lambda *asked: plan)
    graph = unweave.attribute(tiny("llama", "skip"), PROMPT, max_features=most)
    same(graphs["skip", most], graph)
    pruned, wanted = unweave.prune(graph), unweave.prune(graphs["skip", most])
    assert pruned.nodes.ids == wanted.nodes.ids
    assert torch.equal(pruned.rows.value, wanted.rows.value)


@pytest.fixture
def small_passes(monkeypatch):
    monkeypatch.setattr(work, "make_plan", lambda *asked: LARGE._replace(columns=30, least=5, on_disk=True))


def interrupted(model, prompt, partial, after: int, **options) -> None:
    seen = []

    def progress(share):
        seen.append(share)
        if len(seen) == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unweave.attribute(model, prompt, partial=partial, progress=progress, **options)


@pytest.mark.parametrize("most", [None, 40])
@pytest.mark.parametrize("after", [2, 5, 9])
def test_a_stopped_trace_goes_on(tiny, small_passes, tmp_path, caplog, most, after):
    model, partial = tiny("llama", "clt"), tmp_path / "partial"
    whole = unweave.attribute(model, PROMPT, max_features=most)
    interrupted(model, PROMPT, partial, after, max_features=most)
    assert "goes on from there" in caplog.text
    with partial.open("r+b") as file:  # as if the power went in the middle of a record
        file.truncate(partial.stat().st_size - 3)
    shares = []
    same(whole, unweave.attribute(model, PROMPT, max_features=most, partial=partial, progress=shares.append))
    assert not partial.exists()
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0) or most
    fresh: list[float] = []
    unweave.attribute(model, PROMPT, max_features=most, progress=fresh.append)
    assert len(shares) < len(fresh) + (after == 2)


@pytest.mark.parametrize("changed", ["prompt", "model", "dictionary", "most", "targets", "position_zero", "direction"])
def test_rows_of_anything_else_are_not_used(tiny, small_passes, tmp_path, changed):
    partial, model, prompt, options = (
        tmp_path / "partial",
        tiny("llama", "clt"),
        PROMPT,
        {"max_features": 40, "targets": [5]},
    )
    pointed = [unweave.Direction(torch.full((24,), value), "the same name") for value in (1.0, 2.0)]
    interrupted(model, prompt, partial, 4, **options | ({"targets": pointed[0]} if changed == "direction" else {}))
    match changed:
        case "prompt":
            prompt = [*PROMPT[:-1], 13]
        case "model":
            model = unweave.transcoders.replacement.ReplacementModel(
                changed_weight(model.language_model), model.transcoders
            )
        case "dictionary":
            model = tiny("llama", "relu")
        case "most":
            options["max_features"] = 41
        case "targets":
            options["targets"] = [6]
        case "position_zero":
            options["position_zero"] = "drop"
        case "direction":
            options["targets"] = pointed[1]
    same(unweave.attribute(model, prompt, **options), unweave.attribute(model, prompt, partial=partial, **options))


def changed_weight(model):
    """The same model but for one number, which no sample of weights would find."""
    import copy
    from dataclasses import replace

    module = copy.deepcopy(model.module)
    with torch.no_grad():
        module.model.layers[1].mlp.up_proj.weight[7, 3] += 0.5
    return replace(model, module=module)


KILLED = """
import os, signal, sys
import unweave
from unweave.attribution import work
from unweave.attribution.budget import MemoryPlan
work.make_plan = lambda *asked: MemoryPlan(30, 5, 0, True, False, 0, 0)
calls = []
def progress(share):
    calls.append(share)
    if len(calls) == 6:
        os.kill(os.getpid(), signal.SIGKILL)
model = unweave.load(sys.argv[1], sys.argv[2])
unweave.attribute(model, [0, 7, 3, 41, 7, 12], max_features=40, partial=sys.argv[3], progress=progress)
"""


def test_a_killed_process_leaves_rows_that_are_used(tiny, tiny_folders, small_passes, tmp_path):
    partial = tmp_path / "partial"
    done = fresh.run(KILLED, [*tiny_folders("llama", "skip"), partial])
    assert done.returncode == -signal.SIGKILL
    model, computed = tiny("llama", "skip"), []
    add = RowStore.add
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            RowStore, "add", lambda store, names, rows: (computed.extend(names.tolist()), add(store, names, rows))[-1]
        )
        unweave.attribute(model, PROMPT, max_features=40)
        every = len(computed)
        computed.clear()
        graph = unweave.attribute(model, PROMPT, max_features=40, partial=partial)
    assert 0 < len(computed) < every
    same(unweave.attribute(model, PROMPT, max_features=40), graph, 1e-5)


@pytest.mark.parametrize(("kind", "most"), [("skip", None), ("clt", None), ("clt", 20)])
def test_limits_on_memory(tiny, graphs, monkeypatch, kind, most):
    """Counting what the graph itself takes alone: the smallest limit that is named works, and gives the same graph."""
    monkeypatch.setattr(budget, "resident", lambda: 0)
    monkeypatch.setattr(budget, "peak", lambda: 0)
    model = tiny("llama", kind)
    with pytest.raises(OptionError, match="smallest limit that works is") as refused:
        unweave.attribute(model, PROMPT, max_features=most, max_memory=1000)
    monkeypatch.setattr(budget, "resident", lambda: 10**9)  # the message speaks of hundredths of a GB
    with pytest.raises(OptionError) as refused:
        unweave.attribute(model, PROMPT, max_features=most, max_memory="1GB")
    smallest = str(refused.value).split()[-2]
    plans = []
    make = work.make_plan
    monkeypatch.setattr(work, "make_plan", lambda *asked: plans.append(make(*asked)) or plans[-1])
    same(graphs[kind, most], unweave.attribute(model, PROMPT, max_features=most, max_memory=f"{smallest} GB"), 1e-5)
    assert plans[0].memory <= float(smallest) * 1e9


def test_less_memory_means_smaller_passes_then_files(tiny, monkeypatch):
    monkeypatch.setattr(budget, "resident", lambda: 0)
    monkeypatch.setattr(budget, "peak", lambda: 0)
    local = tiny("llama", "skip").localize(PROMPT)
    free = budget.make_plan(local, 4, None, None, False, torch.device("cpu"))
    assert not free.on_disk
    limits = [free.memory * share // 100 for share in (100, 90, 70, 50, 30)]
    plans = []
    for limit in limits:
        try:
            plans.append(budget.make_plan(local, 4, None, limit, False, torch.device("cpu")))
        except OptionError:
            break
    assert len(plans) >= 3
    assert all(plan.memory <= limit for plan, limit in zip(plans, limits, strict=False))
    assert plans[-1].mapped or plans[-1].columns < free.columns


@pytest.mark.parametrize("text", ["", "two", "-1GB", "0", "1 XB", "1e9"])
def test_sizes_that_are_none(text):
    with pytest.raises(OptionError, match="is not a size"):
        parsing.parse_bytes(text)
