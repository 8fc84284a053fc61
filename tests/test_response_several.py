"""Effects averaged over several prompts, from Python, files and the command line."""

import json

import pytest
from conftest import PROMPT
from hypothesis import given
from hypothesis import strategies as st

import unweave

OTHER = [0, 7, 3, 22, 7, 12]
LONGER = [0, 7, 3, 41, 7, 12, 9]


def test_a_mean_is_that_of_the_graphs_own_effects(tiny):
    model = tiny("llama").language_model
    pairs = [unweave.ContrastPair(PROMPT, OTHER), unweave.ContrastPair(LONGER, [*OTHER, 9])]
    found = unweave.mean_effects(model, pairs, most=10)
    sums = {}
    for pair in pairs:
        graph = unweave.response_graph(model, pair.prompt, instead=pair.instead, most=600)
        nodes = graph.nodes
        for row in range(nodes.features.stop):
            unit = int(nodes.layer[row]), int(nodes.index[row])
            sums.setdefault(unit, {}).setdefault(id(pair), []).append(float(graph.effect[row]))
    for one in found.strongest[:5]:
        parts = [sum(part) for part in sums[one.layer, one.index].values()]
        assert one.effect == pytest.approx(sum(parts) / 2, rel=1e-3, abs=1e-5)
        assert one.same_sign == sum(part * one.effect > 0 for part in parts)
    sizes = [abs(one.effect) for one in found.strongest]
    assert sizes == sorted(sizes, reverse=True) and len(found.targets) == 2


def test_one_prompt_has_no_error_and_features_work(tiny):
    found = unweave.mean_effects(tiny("llama"), [unweave.ContrastPair(PROMPT)], units="features", most=5)
    assert found.units == "features" and found.strongest[0].error != found.strongest[0].error


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "is not JSON"),
        ("[1]", "has no prompt"),
        ('{"prompt": 3}', "something else than texts"),
        ('{"prompt": "a", "instaed": "b"}', "something else than texts"),
        ('{"prompt": "a", "minus": "b"}', "minus without target"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, words):
    (tmp_path / "a.jsonl").write_text('{"prompt": "a"}\n' + line)
    with pytest.raises(unweave.UnweaveError, match=f"line 2.*{words}"):
        unweave.read_pairs(tmp_path / "a.jsonl")


def test_bad_files_and_prompts_are_named(tmp_path, tiny):
    (tmp_path / "empty.jsonl").write_text("\n")
    for name, words in (("empty.jsonl", "holds no prompt"), ("none.jsonl", "cannot read prompts")):
        with pytest.raises(unweave.UnweaveError, match=words):
            unweave.read_pairs(tmp_path / name)
    model = tiny("llama").language_model
    with pytest.raises(unweave.UnweaveError, match="prompt 2: the prompt to contrast with"):
        unweave.mean_effects(model, [unweave.ContrastPair(PROMPT), unweave.ContrastPair(PROMPT, PROMPT)])
    with pytest.raises(unweave.UnweaveError, match="no prompts"):
        unweave.mean_effects(model, [])
    with pytest.raises(unweave.UnweaveError, match="most is 0"):
        unweave.mean_effects(model, [unweave.ContrastPair(PROMPT)], most=0)


@given(st.lists(st.tuples(st.text(min_size=1), st.one_of(st.none(), st.text(min_size=1))), min_size=1, max_size=5))
def test_pairs_are_read_as_written(tmp_path_factory, pairs):
    path = tmp_path_factory.mktemp("pairs") / "a.jsonl"
    facts = [{"prompt": one} | ({} if other is None else {"instead": other}) for one, other in pairs]
    path.write_text("".join(json.dumps(fact) + "\n" for fact in facts))
    assert [(pair.prompt, pair.instead) for pair in unweave.read_pairs(path)] == pairs


def test_the_command_averages_a_file(run, tmp_path):
    lines = [{"prompt": "der Plural von Laden ist"}, {"prompt": "1 + 1 ="}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ("trace", "--response", "--model", "organism", "--prompts", "a.jsonl", "--most", "8")
    code, out, _ = run(*words, "--out", "b.json")
    assert code == 0 and "of 2" in out and len(json.loads((tmp_path / "b.json").read_text())["strongest"]) == 8
    code, out, _ = run(*words, "--json")
    assert code == 0 and len(json.loads(out)["targets"]) == 2
    code, _, err = run(*words, "--instead", "1 + 2 =")
    assert code == 2 and "in the file alone" in err
