"""Claims: what is measured, what holds, and that whatever is wrong in a file is named with its line."""

import io
import json
from pathlib import Path

import pytest
import yaml
from conftest import PROMPT
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

import unweave
from unweave import ablate, add, scale, set_to
from unweave.cli.show_claims import show_claims
from unweave.errors import ClaimError, UnweaveError
from unweave.interventions.edits import dosed
from unweave.interventions.naming import Names
from unweave.interventions.steering import swap
from unweave.validation.claims import check_claims, claims_facts, read_claims

OTHER = [0, 7, 3, 20, 7, 12]


@pytest.fixture(scope="module")
def graph(tiny):
    return unweave.attribute(tiny(kind="skip"), PROMPT)


@pytest.fixture(scope="module")
def ids(graph):
    """Six active features, the most influential first."""
    return [graph.nodes[row].id for row in graph.influence()[graph.nodes.features].topk(6).indices.tolist()]


@pytest.fixture
def write(tmp_path):
    def put(content, name="claims.yaml"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
        return path

    return put


def checked(path, model):
    return check_claims(read_claims(path), model)


def test_figures_are_those_of_intervene(tiny, write, ids):
    model, wide = tiny(kind="skip"), "-1e9..1e9"
    of_token = {name: wide for name in ("logit", "logit_change", "probability", "probability_change", "rank")}
    ways = [
        ({"ablate": "pair"}, [ablate(ids[:2])], {}),
        ({"ablate": [ids[0], ids[3]]}, [ablate([ids[0], ids[3]])], {}),
        (
            {"scale": {"pair": -2}, "set": {ids[2]: 3}, "add": {ids[2]: 0.5}},
            [scale(ids[:2], -2.0), set_to(ids[2], 3.0), add(ids[2], 0.5)],
            {},
        ),
        ({"ablate": ids[0], "mode": "open"}, [ablate(ids[0])], {"mode": "open"}),
        ({"ablate": ids[0], "layers": "0-1"}, [ablate(ids[0])], {"layers": range(2)}),
        ({"ablate": ids[0], "mode": "frozen"}, [ablate(ids[0])], {"mode": "frozen"}),
        ({"swap_from": OTHER}, swap(model, PROMPT, OTHER), {}),
        (
            {"swap_from": OTHER, "swap_factor": 2.5, "swap_at": [-1]},
            dosed(swap(model, PROMPT, OTHER, positions=[-1]), 2.5),
            {},
        ),
        ({"swap_from": OTHER, "swap_only": [ids[0], ids[1]]}, swap(model, PROMPT, OTHER, features=ids[:2]), {}),
    ]
    expect = [
        {"token": "#9", **of_token},
        {"kl": wide},
        {"feature": ids[4], "activation": wide, "activation_change": wide},
    ]
    claims = [
        {"name": f"way {number}", "prompt": PROMPT, **way, "expect": expect} for number, (way, _, _) in enumerate(ways)
    ]
    verdicts = checked(write({"supernodes": {"pair": ids[:2]}, "claims": claims}), model)
    assert len(verdicts) == len(ways)
    for verdict, (_, changes, how) in zip(verdicts, ways, strict=True):
        outcome = unweave.intervene(model, PROMPT, changes, watch=[ids[4]], **how)
        token = outcome.tokens([9], count=0)[0]
        rank = outcome.logits[-1].argsort(descending=True).tolist().index(9) + 1
        before, after = outcome.activations[:, 0].tolist()
        wanted = [
            token.logit_after, token.logit_change, token.probability_after,
            token.probability_after - token.probability_before, rank,
            outcome.kl(), after, after - before,
        ]  # fmt: skip
        assert [check.measured for check in verdict.checks] == pytest.approx(wanted, rel=1e-5, abs=1e-6)
        assert verdict.holds
        assert verdict.kl == pytest.approx(outcome.kl(), rel=1e-5)


def test_bounds_decide(tiny, write, ids):
    model = tiny(kind="skip")
    outcome = unweave.intervene(model, PROMPT, [scale(ids[:3], -3.0)])
    kl, top, other = outcome.kl(), int(outcome.logits[-1].argmax()), int(outcome.logits[-1].argmin())
    cases = [
        ({"kl": f">= {kl - 0.01}"}, True), ({"kl": f">= {kl + 0.01}"}, False), ({"kl": f"<= {kl + 0.01}"}, True),
        ({"kl": f"<= {kl - 0.01}"}, False),
        ({"kl": f"{kl - 0.01}..{kl + 0.01}"}, True), ({"kl": f"{kl + 0.01} .. {kl + 1}"}, False),
        ({"top": f"#{top}"}, True), ({"top": f"#{other}"}, False), ({"not_top": f"#{top}"}, False),
        ({"not_top": f"#{other}"}, True),
        ({"token": f"#{top}", "rank": "<= 1"}, True), ({"token": f"#{other}", "rank": "<= 1"}, False),
        ({"token": f"#{other}", "rank": ">= 50", "logit": ">= 1e6"}, False),
    ]  # fmt: skip
    claims = [
        {"name": f"case {number}", "prompt": PROMPT, "scale": dict.fromkeys(ids[:3], -3), "expect": [case]}
        for number, (case, _) in enumerate(cases)
    ]
    shares = []
    file = read_claims(write({"claims": claims}))
    verdicts = check_claims(file, model, shares.append)
    assert [verdict.holds for verdict in verdicts] == [holds for _, holds in cases]
    assert shares == pytest.approx([(number + 1) / len(cases) for number in range(len(cases))])
    assert [check.holds for check in verdicts[-1].checks] == [False, True]
    assert verdicts[6].after[0] == f"#{top}"
    facts = json.loads(json.dumps(claims_facts(file, verdicts)))
    assert not facts["holds"]
    assert facts["claims"][0]["checks"] == [
        {"what": "KL", "wanted": f">= {kl - 0.01}", "measured": pytest.approx(kl), "holds": True}
    ]
    assert facts["claims"][6]["after"] == {
        "token": f"#{top}",
        "probability": pytest.approx(float(outcome.logits[-1].softmax(-1).max())),
    }
    said = io.StringIO()
    show_claims(file, verdicts, Console(file=said, width=150))
    lost = sum(not holds for _, holds in cases)
    assert f"{lost} of {len(cases)} fail" in said.getvalue()
    assert said.getvalue().count("✗") == lost
    assert f"not '#{top}'" in said.getvalue()


def test_a_graph_gives_the_prompt_and_the_features(tiny, write, graph, ids, tmp_path):
    model = tiny(kind="skip")
    graph.save(tmp_path / "x.graph.safetensors")
    claim = {"name": "x", "ablate": ids[0], "expect": [{"kl": ">= 0"}]}
    verdict = checked(write({"graph": "x.graph.safetensors", "claims": [claim]}), model)[0]
    assert verdict.kl == pytest.approx(unweave.intervene(model, PROMPT, [ablate(ids[0])]).kl())
    absent = next(f"2_{index}_5" for index in range(34) if f"2_{index}_5" not in graph.nodes.rows)
    assert Names(model).features(absent)
    with pytest.raises(ClaimError, match=rf"claims.yaml, line 3: claim 'x': .*{absent}"):
        checked(write({"graph": "x.graph.safetensors", "claims": [claim | {"ablate": absent}]}), model)
    graph.with_provenance(transcoders_sha256="0" * 64).save(tmp_path / "other.graph.safetensors")
    with pytest.raises(ClaimError, match=r"line 1: .*another dictionary"):
        checked(write({"graph": "other.graph.safetensors", "claims": [claim]}), model)
    with pytest.raises(ClaimError, match=r"line 2: .*none.graph"):
        checked(write({"model": "x", "graph": "none.graph.safetensors", "claims": [claim]}), model)


def test_the_dictionary_can_be_named_by_its_hash(tiny, write, ids):
    model = tiny(kind="skip")
    content = {"claims": [{"name": "x", "prompt": PROMPT, "ablate": ids[0], "expect": [{"kl": ">= 0"}]}]}
    assert checked(write({"transcoders_sha256": model.transcoders.sha256[:12], **content}), model)[0].holds
    with pytest.raises(ClaimError, match="line 1: the claims are about dictionary 00000000"):
        checked(write({"transcoders_sha256": "'00000000'".strip("'"), **content}), model)


GOOD = """\
model: smollm2
supernodes:
  A: [0_1_2, 1_2_3]
claims:
  - name: first
    prompt: [0, 7, 3, 41]
    ablate: A
    expect:
      - kl: ">= 0.0"
"""


def test_ids_are_not_numbers(write):
    file = read_claims(write(GOOD))
    assert [feature.id for feature in file.supernodes["A"]] == ["0_1_2", "1_2_3"]
    assert (file.model, file.lines[0], file.claims[0].prompt) == ("smollm2", 5, (0, 7, 3, 41))


def test_aliases_are_text_written_once(write):
    content = GOOD.replace("A: [", "A: &a [").replace("ablate: A", "ablate: *a")
    assert read_claims(write(content)).claims[0].ablate == ("0_1_2", "1_2_3")
    laughs = "".join(f"  l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]\n" for n in range(1, 30))
    with pytest.raises(ClaimError, match="line 2: l0: "):
        read_claims(write(f"supernodes:\n  l0: &l0 [[x]]\n{laughs}{GOOD[GOOD.index('claims') :]}"))


WRONG = {
    "empty": ("", 1, "a claims file is a mapping"),
    "list": ("- a\n- b\n", 1, "a claims file is a mapping"),
    "only text": ("claims", 1, "a claims file is a mapping"),
    "no claims": ("model: smollm2\n", 1, "'claims' is missing"),
    "empty claims": ("model: x\nclaims: []\n", 2, "it is empty"),
    "brackets": (GOOD.replace("[0_1_2, 1_2_3]", "[0_1_2, 1_2_3"), 4, "not YAML"),
    "tab": (GOOD.replace("    ablate", "\tablate"), 7, "not YAML"),
    "control": (GOOD.replace("smollm2", "smol\x00lm2"), 1, "not YAML"),
    "key": (
        GOOD.replace("ablate", "abblate"),
        7,
        "claim 'first': unknown key 'abblate'; known here: name, prompt, ablate",
    ),
    "top key": (GOOD.replace("model", "models"), 1, "unknown key 'models'; known here: model"),
    "expect key": (GOOD.replace("kl", "kl_divergence"), 9, "unknown key 'kl_divergence'; known here: token, logit"),
    "twice": (GOOD.replace("    ablate", "    name: again\n    ablate"), 7, "'name' stands here twice"),
    "no name": (GOOD.replace("name: first", "mode: open"), 5, "claim 1: 'name' is missing"),
    "no prompt": (GOOD.replace("    prompt: [0, 7, 3, 41]\n", ""), 5, "claim 'first': 'prompt' is missing"),
    "no expect": (GOOD[: GOOD.index("    expect")], 5, "'expect' is missing"),
    "nothing expected": (GOOD[: GOOD.index("    expect")] + "    expect: []\n", 8, "expect: it is empty"),
    "nothing changed": (GOOD.replace("    ablate: A\n", ""), 5, "nothing is changed"),
    "empty ablate": (GOOD.replace("ablate: A", "ablate: []"), 7, "ablate: it is empty"),
    "prompt": (GOOD.replace("[0, 7, 3, 41]", "[0, x]"), 6, "prompt: a prompt is text, or a list of token ids"),
    "supernode": (
        GOOD.replace("ablate: A", "ablate: B"),
        7,
        "ablate: 'B' is neither a feature's id (such as '12_345_5') nor a supernode; the file has: A",
    ),
    "later supernode": (GOOD.replace("ablate: A", "scale:\n      A: 1\n      B: 2"), 9, "scale: 'B' is neither"),
    "member": (GOOD.replace("1_2_3]", "\n   1_2]"), 4, "supernode 'A': '1_2' is not a feature"),
    "error node": (GOOD.replace("ablate: A", "ablate: [A, 1_error_mlp_2]"), 7, "error or embedding node"),
    "number": (GOOD.replace("ablate: A", "scale: {A: two}"), 7, "A: 'two' is not a number"),
    "infinite": (GOOD.replace("ablate: A", "scale: {A: .inf}"), 7, "'.inf' is not a number"),
    "nan": (GOOD.replace("ablate: A", "scale: {A: nan}"), 7, "'nan' is not a finite number"),
    "scale list": (GOOD.replace("ablate: A", "scale: [A]"), 7, "scale: ['A'] should be a mapping"),
    "position": (GOOD.replace("ablate: A", "swap_from: [1]\n    swap_at: [x]"), 8, "'x' is not a whole number"),
    "stray": (GOOD.replace("ablate: A", "ablate: A\n    swap_factor: 2"), 5, "swap_factor needs swap_from"),
    "mode": (
        GOOD.replace("ablate: A", "ablate: A\n    mode: closed"),
        8,
        "mode: 'closed' is not one of 'frozen_attention'",
    ),
    "layers": (
        GOOD.replace("ablate: A", "ablate: A\n    layers: top"),
        8,
        "layers top: give the first and the last layer",
    ),
    "bound": (GOOD.replace(">= 0.0", "about 1"), 9, "kl: 'about 1' is not a bound"),
    "bare number": (GOOD.replace('">= 0.0"', "0.5"), 9, "kl: '0.5' is not a bound"),
    "bound number": (GOOD.replace(">= 0.0", ">= nan"), 9, "is not a bound"),
    "empty bound": (GOOD.replace(">= 0.0", "3..1"), 9, "holds no number"),
    "bound list": (GOOD.replace('">= 0.0"', "[1]"), 9, "is not a bound"),
    "no subject": (
        GOOD.replace("kl:", "logit:"),
        9,
        "about one of token, top, not_top, kl, feature or parts, not none of them",
    ),
    "two subjects": (GOOD.replace("- kl", '- top: "#3"\n        kl'), 9, "not top and kl"),
    "no measure": (GOOD.replace('kl: ">= 0.0"', 'token: "#3"'), 9, "what of the token? give logit"),
    "wrong measure": (
        GOOD.replace("- kl", "- feature: 0_1_2\n        activation: '>= 1'\n        rank"),
        9,
        "rank does not go with feature",
    ),
    "empty token": (GOOD.replace('kl: ">= 0.0"', 'top: ""'), 9, "top: a token is text"),
    "watched": (GOOD.replace('kl: ">= 0.0"', 'feature: B\n        activation: ">= 1"'), 9, "feature: 'B' is neither"),
    "hash": ("transcoders_sha256: smollm2\n" + GOOD, 1, "does not begin a sha256"),
    "alias": (GOOD.replace("[0_1_2, 1_2_3]", "&a [0_1_2, *a]"), 3, "a YAML alias stands inside what it repeats"),
    "unknown alias": (GOOD.replace("ablate: A", "ablate: *a"), 7, "not YAML: found undefined alias"),
    "tag": (
        GOOD.replace("ablate: A", "ablate: !!python/object/apply:os.system ['touch owned']"),
        7,
        "python/object/apply:os.system' has no place",
    ),
    "key of lists": (GOOD.replace("ablate: A", "? [a]\n    : b"), 7, "a key is not plain text"),
    "two documents": (GOOD + "---\n" + GOOD, 10, "not YAML"),
    "claim is text": ("claims: [x]\n", 1, "claim 1: 'x' should be a mapping"),
    "claims is text": ("claims: x\n", 1, "'x' should be a list"),
    "supernodes is text": (GOOD.replace("\n  A: [0_1_2, 1_2_3]", " A"), 2, "supernodes: 'A' should be a mapping"),
    "expect is a mapping": (GOOD.replace("- kl", "kl"), 8, "expect: {'kl': '>= 0.0'} should be a list"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named_with_its_line(write, case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content, line, message = WRONG[case]
    assert content != GOOD
    with pytest.raises(ClaimError) as refused:
        read_claims(write(content))
    said = str(refused.value)
    assert "\n" not in said
    assert f"claims.yaml, line {line}: " in said
    assert message in said
    assert not (tmp_path / "owned").exists()


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ClaimError, match=r"cannot read claims from .*: No such file"):
        read_claims(tmp_path / "none.yaml")
    with pytest.raises(ClaimError, match="Is a directory"):
        read_claims(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"claims: \xe9")
    with pytest.raises(ClaimError, match="not text in UTF-8"):
        read_claims(tmp_path / "latin.yaml")
    (tmp_path / "deep.yaml").write_text("claims: " + "[" * 5000)
    with pytest.raises(ClaimError, match=r"nested too deeply|not YAML"):
        read_claims(tmp_path / "deep.yaml")


@given(st.text(alphabet="abcl:-[]{}\"'&*!#|>%@`? \n\t0_1,aims", max_size=60), st.integers(0, len(GOOD)))
@settings(max_examples=300, deadline=None)
def test_no_text_gives_a_traceback(tmp_path_factory, text, at):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(GOOD[:at] + text + GOOD[at:])
    try:
        read_claims(path)
    except ClaimError as error:
        assert "\n" not in str(error)


RUN_WRONG = {
    "feature": (("ablate: A", "ablate: 9_1_2"), 7, "layer 9 is outside the model's 3 layers"),
    "in a supernode": (("1_2_3]", "1_999_3]"), 7, "feature 999 is outside layer 1's"),
    "prompt position": (("1_2_3]", "1_2_8]"), 7, "position 8 is outside the prompt of 4 tokens"),
    "token": (('kl: ">= 0.0"', 'top: "#5000"'), 7, "token id 5000 is outside the model's vocabulary"),
    "text without tokenizer": (('kl: ">= 0.0"', 'top: " Paris"'), 7, "comes without a tokenizer"),
    "token of prompt": (("3, 41]", "3, 999]"), 7, "token id 999 is outside"),
    "scaled twice": (("ablate: A", "ablate: A\n    scale: {0_1_2: 3}"), 7, "0_1_2 is set or scaled twice"),
    "layer range": (("ablate: A", "ablate: A\n    layers: 1-9"), 7, "layers 1 to 9 are not a range"),
    "unreached": (("ablate: A", "ablate: 2_1_2\n    layers: 0-1"), 7, "write nowhere in the constrained layers"),
    "swap of the same": (("ablate: A", "swap_from: [0, 7, 3, 41]"), 7, "nothing to swap"),
    "watched many": (('kl: ">= 0.0"', 'feature: A\n        activation: ">= 1"'), 7, "should be one feature at one "
        "position"),
    "not finite": (("ablate: A", "set: {A: 1e39}"), 7, "not finite"),
}  # fmt: skip


@pytest.mark.parametrize("case", RUN_WRONG)
def test_what_cannot_be_checked_is_named_with_its_claim(tiny, write, case):
    (old, new), line, message = RUN_WRONG[case]
    content = GOOD.replace("claims:\n", "claims:\n  # a comment\n\n")
    assert old in content
    with pytest.raises(UnweaveError) as refused:
        checked(write(content.replace(old, new)), tiny(kind="skip"))
    assert isinstance(refused.value, ClaimError)
    said = str(refused.value)
    assert f"claims.yaml, line {line}: claim 'first': " in said
    assert message in said
    assert "\n" not in said


@pytest.mark.real
def test_the_claims_that_ship_hold(smollm2):
    file = read_claims(Path(__file__).parent.parent / "examples" / "smollm2.claims.yaml")
    verdicts = check_claims(file, smollm2)
    assert len(verdicts) == 7
    assert [verdict.name for verdict in verdicts if not verdict.holds] == []


@pytest.mark.real
def test_paris(smollm2, write):
    claim = {
        "name": "France",
        "prompt": "The capital of France is",
        "swap_from": "The capital of Germany is",
        "swap_factor": 0,
    }
    expect = [{"top": " Paris"}, {"token": " Paris", "probability": "0.70..0.80", "logit_change": "-0.001..0.001"}]
    assert checked(write({"claims": [claim | {"expect": expect}]}), smollm2)[0].holds
    with pytest.raises(ClaimError, match=r"line 2: claim 'France': target ' Parisian streets' is 3 tokens"):
        checked(write({"claims": [claim | {"expect": [{"top": " Parisian streets"}]}]}), smollm2)
