"""Many explanations: resumed, on processes, groups that recur; two of them side by side."""

import json

import pytest

import unweave
from unweave.errors import OptionError, PromptError
from unweave.explanation.recurring import recurring, side_by_side

PROMPT, INSTEAD = [0, 3, 7, 9, 4], [0, 3, 12, 9, 4]
LINES = [
    {"id": "one", "prompt": PROMPT, "instead": INSTEAD},
    {"id": "two", "prompt": [0, 5, 7, 9, 4], "instead": [0, 5, 12, 9, 4]},
    {"id": "bad", "prompt": PROMPT, "instead": [0, 3]},
]


@pytest.fixture(scope="module")
def model(tiny):
    return tiny("llama", "jumprelu").language_model


def test_many_prompts_are_explained_once_and_what_fails_is_said(tmp_path, tiny_folders, model):
    folder, _ = tiny_folders("llama", "jumprelu")
    out = tmp_path / "why"
    first = unweave.explain_many(LINES, out, str(folder))
    assert (first.explained, first.there, [row["id"] for row in first.failed]) == (3, 0, ["bad"])
    assert "equal length" in first.failed[0]["error"]
    one = unweave.explain(model, PROMPT, instead=INSTEAD)
    assert first.rows[0]["f"] == pytest.approx(one.measured.together, abs=1e-5)
    assert first.rows[0]["verdict"] in ("necessary", "part of it", "nothing found")
    written = (out / "one.explanation.json").read_bytes()
    again = unweave.explain_many(LINES, out, str(folder))
    assert (again.explained, again.there) == (1, 2)
    assert (out / "one.explanation.json").read_bytes() == written
    assert again.rows[:2] == first.rows[:2] and again.groups == first.groups
    (out / "one.explanation.json").write_bytes(written[: len(written) // 2])  # a disk that lost half of it
    mended = unweave.explain_many(LINES[:2], out, str(folder), workers=2)
    assert (mended.explained, mended.there, mended.failed) == (1, 1, [])
    rows = [json.loads(line) for line in (out / "explanations.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["one", "two"]
    with pytest.raises(PromptError, match="another prompt or options"):
        unweave.explain_many([{**LINES[0], "groups": 3}], out, str(folder))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "holds no prompt"),
        ([{"prompt": ""}], "line 1: prompt"),
        ([{"prompt": "a", "colour": 1}], "a line may hold"),
        ([{"prompt": "a", "baseline": "noise"}], "'noise'"),
        ([{"prompt": "a", "id": "x"}, {"prompt": "b", "id": "x"}], "taken by line 1"),
    ],
)
def test_broken_lines_are_refused_before_a_model_is_loaded(tmp_path, lines, message):
    with pytest.raises(PromptError, match=message):
        unweave.explain_many(lines, tmp_path, "no such model")


def group(parts, share=0.5, probability=0.1, against=False):
    return {
        "parts": parts, "share": share, "probability": probability, "against": against, "passed": True,
        "name": parts[0],
    }  # fmt: skip


def test_groups_recur_wherever_their_tokens_lie():
    facts = [
        {"answer": {"probability": 0.8}, "groups": [group(["23.h4@5", "23.h1@5"]), group(["1_2_3"])]},
        {"answer": {"probability": 0.8}, "groups": [group(["23.h4@9"], 0.3, 0.5), group(["1_2_3"], against=True)]},
        {"answer": {"probability": 0.8}, "groups": [group(["7_7_7"])]},
    ]
    (found,) = recurring(facts)
    assert found["explanations"] == [0, 1] and found["necessary"] == 1 and found["share"] == pytest.approx(0.4)
    assert "23.h4" in found["parts"]


def test_groups_of_two_explanations_side_by_side():
    rest = {"rival": {"token": " y"}}
    a = rest | {
        "answer": {"token": " a", "probability": 0.8},
        "groups": [group(["1_2_3"], 0.1), group(["23.h4@5", "23.h1@5"], 0.9), group(["4_4_4"], -0.2, against=True)],
    }
    b = rest | {"answer": {"token": " b", "probability": 0.7},
                "groups": [group(["23.h4@9"], 0.3) | {"place": "head 23.4"}, group(["4_4_4"], 0.2)]}  # fmt: skip
    found = side_by_side(a, b)
    (both,) = found["shared"]
    assert (both["groups"], both["name"], both["shares"], both["against"]) == ([1, 0], "23.h4@5", [0.9, 0.3], False)
    assert [one["groups"] for one in found["only_a"]] == [[2, None], [0, None]], "the largest share first"
    assert [(one["groups"], one["shares"]) for one in found["only_b"]] == [([None, 1], [None, 0.2])]
    assert [(one["token"], one["rival"]) for one in found["answers"]] == [(" a", " y"), (" b", " y")]
    assert side_by_side(b, a)["shared"][0]["name"] == "head 23.4"


def test_an_explanation_compared_with_itself_and_with_another(model):
    a = unweave.explain(model, PROMPT, instead=INSTEAD, draws=3)
    same = unweave.compare_explanations(a, a)
    assert [pair["groups"] for pair in same["shared"]] == [[n, n] for n in range(len(a.groups))]
    assert not same["only_a"] and not same["only_b"] and not any(arrow["differs"] for arrow in same["arrows"])
    b = unweave.explain(model, [0, 5, 7, 9, 4], instead=[0, 5, 12, 9, 4], draws=3)
    found = unweave.compare_explanations(a, b)
    for side, groups, key in ((0, a.groups, "only_a"), (1, b.groups, "only_b")):
        numbers = [pair["groups"][side] for pair in found["shared"]] + [one["group"] for one in found[key]]
        assert sorted(numbers) == list(range(len(groups)))


def test_what_swapping_a_group_takes_elsewhere_is_measured(model):
    a = unweave.explain(model, PROMPT, instead=INSTEAD, draws=3)
    b = unweave.explain(model, PROMPT, instead=INSTEAD, groups=2, draws=3)
    for one in unweave.compare_explanations(a, b)["only_a"]:  # the same prompt: the same share
        assert one["share_other"] == pytest.approx(one["share"], abs=1e-4)


def test_two_models_are_compared_unit_by_unit(model, tiny_folders):
    from unweave.explanation.say import Test as Swap
    from unweave.explanation.say import run_tests
    from unweave.interventions.parts import Part

    folder, _ = tiny_folders("llama", "jumprelu")
    other = unweave.load_model(str(folder))
    other.module.model.layers[1].mlp.down_proj.weight.data.mul_(0.5)
    a, b = (unweave.explain(one, PROMPT, instead=INSTEAD, draws=2) for one in (model, other))
    units = unweave.compare_explanations(a, b)["units"]
    members = {part.words for found in (a, b) for group in found.groups for part in group.part.members}
    assert {(unit["part"],) for unit in units} == members
    gaps = [abs(unit["share"][0] - unit["share"][1]) for unit in units]
    assert gaps == sorted(gaps, reverse=True) and gaps[0] > 0
    part = Part.parse([units[0]["part"]])
    for found, share in zip((a, b), units[0]["share"], strict=True):
        assert run_tests(found.contrast, [Swap(part, Part(), None, 1.0)])[0] == pytest.approx(share, abs=1e-5)
    assert unweave.compare_explanations(a, a)["units"] == []


def test_commands(run, tiny_folders, tmp_path):
    folder, _ = tiny_folders("llama", "jumprelu")
    first, second = (" ".join(map(str, ids)) for ids in (PROMPT, [0, 5, 7, 9, 4]))
    code, out, err = run("compare", first, "--ids", "--models", folder, folder, "--baseline", "zero")
    assert code == 0 and "In both" in out and "Arrows that differ (0 of" in out and "Single parts" in out, err
    for words, message in (
        ([first, "--ids"], "a second prompt or --models"),
        ([first, first, "--ids"], "the same"),
        ([first, ""], "empty"),
        ([first, second, "--ids", "--models", folder, folder], "either"),
    ):
        code, out, err = run("compare", *words, "-m", folder)
        assert code == 2 and message in " ".join(err.split()) and not out
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(map(json.dumps, LINES)))
    code, out, err = run("explain", "--prompts", path, "--out", tmp_path / "why", "-m", folder)
    assert code == 1 and "bad" in out and "hangs on" in out and "failed" in out, err
    code, out, err = run("explain", "a", "--prompts", path)
    assert code == 2 and "takes the place of PROMPT" in " ".join(err.split())


def test_models_of_two_layouts_are_refused(model, tiny):
    a = unweave.explain(model, PROMPT, instead=INSTEAD, draws=3)
    other = tiny("gpt2", "jumprelu").language_model
    from unweave.explanation.comparing import check_one_layout

    with pytest.raises(OptionError, match="differ in"):
        check_one_layout(a.contrast.model, other)
