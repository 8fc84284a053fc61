"""`unweave steer`: what it prints, and that bad input is one line."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from conftest import PROMPT, WIDTHS, write_tiny_dictionary, write_tiny_model
from test_cli import IDS, refused

import unweave
from unweave import ablate, scale, set_to
from unweave.errors import GraphError
from unweave.graphs.interchange import write_json
from unweave.interventions.naming import Names, check_graph, read_supernodes

OTHER = "0 7 3 20 7 12"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model folder, a dictionary for it, and its graph of the prompt."""
    root = tmp_path_factory.mktemp("steer")
    model, dictionary = (
        write_tiny_model("llama", root / "model"),
        write_tiny_dictionary("skip", "llama", root / "dictionary"),
    )
    graph = unweave.prune(unweave.attribute(unweave.load(str(model), str(dictionary)), PROMPT))
    return model, dictionary, graph.save(root / "x.graph.safetensors")


@pytest.fixture
def steer(run, folders):
    def call(*words, prompt=IDS):
        return run("steer", "--ids", "-m", folders[0], "-t", folders[1], *words, *(["--", prompt] if prompt else []))

    return call


def nodes(folders, count=3):
    graph = unweave.Graph.load(folders[2])
    return [node.id for node in list(graph.nodes)[graph.nodes.features][:count]]


def test_json_says_what_intervene_gives(steer, folders):
    first, second, third = nodes(folders)
    code, out, err = steer(
        "--ablate",
        first,
        "--scale",
        f"{second}=-2",
        "--set",
        f"{third}=3",
        "--add",
        f"{third}=1",
        "--watch",
        "2_3_*",
        "--token",
        "#9",
        "--json",
    )
    assert (code, err.strip()) == (0, "")
    facts = json.loads(out)
    model = unweave.load(*map(str, folders[:2]))
    outcome = unweave.intervene(
        model, PROMPT, [ablate(first), scale(second, -2.0), set_to(third, 4.0)], watch=["2_3_*"]
    )
    assert facts["kl"] == pytest.approx(outcome.kl(), rel=1e-4)
    tokens = outcome.tokens([9])
    assert [token["id"] for token in facts["next"]] == [token.id for token in tokens]
    assert [token["logit_change"] for token in facts["next"]] == pytest.approx(
        [token.logit_change for token in tokens], abs=1e-4
    )
    assert [row["node"] for row in facts["watched"]] == [f"2_3_{position}" for position in range(1, 6)]
    assert [row["after"] for row in facts["watched"]] == pytest.approx(outcome.activations[1].tolist(), abs=1e-4)
    assert {row["node"]: row["after"] for row in facts["changed"]}[third] == pytest.approx(4.0)
    assert [change["action"] for change in facts["changes"]] == ["scale", "scale", "set", "add"]
    assert (facts["mode"], facts["layers"], facts["idle"], facts["tokens"]) == (
        "frozen_attention",
        None,
        [],
        [f"#{token}" for token in PROMPT],
    )


def test_log_probabilities_say_what_probabilities_do(steer, folders):
    facts = json.loads(steer("--scale", f"{nodes(folders)[0]}=-9", "--token", "#9", "--json")[1])
    for token in facts["next"]:
        before, after = token["probability_before"], token["probability_after"]
        assert token["log_probability_before"] == pytest.approx(math.log(before), abs=1e-5)
        assert token["log_probability_change"] == pytest.approx(math.log(after / before), abs=1e-4)
    assert "log-prob" in steer("--scale", f"{nodes(folders)[0]}=-9")[1]


def test_features_that_are_not_active_say_so(steer, folders, tmp_path):
    model, first = unweave.load(*map(str, folders[:2])), nodes(folders, 1)[0]
    active = {(change.feature.layer, change.feature.index) for change in unweave.intervene(
        model, PROMPT, [ablate([f"0_{index}_*" for index in range(WIDTHS[0])])]
    ).changed if change.before}  # fmt: skip
    idle = next(f"0_{index}_2" for index in range(WIDTHS[0]) if (0, index) not in active)
    (tmp_path / "names.json").write_text(json.dumps({"Lone Star": [first]}))
    words = ("--ablate", idle, "--supernodes", "names.json", "--scale", "Lone Star=-2", "--watch", idle)
    facts = json.loads(steer(*words, "--json")[1])
    assert facts["inactive"] == [idle]
    assert {row["node"]: row["supernode"] for row in facts["changed"]} == {idle: None, first: "Lone Star"}
    out = steer(*words)[1]
    assert out.count("not active here") == 2 and "Lone Star" in out and "None of them is active" not in out
    out = steer("--scale", f"{idle}=-2")[1]
    assert "None of them is active on this prompt" in out and "-0.00" not in out


def test_labels_of_the_pages_are_shown(steer, folders, monkeypatch):
    node = nodes(folders, 1)[0]
    key = tuple(int(part) for part in node.split("_")[:2])

    class Pages:
        def labels(self, features):
            return {feature: "says [Texas]" for feature in features if feature == key}

    monkeypatch.setattr("unweave.features.pages.pages_of", lambda transcoders: Pages())
    facts = json.loads(steer("--ablate", node, "--watch", node, "--json")[1])
    assert facts["changed"][0]["label"] == facts["watched"][0]["label"] == "says [Texas]"
    assert steer("--ablate", node, "--watch", node)[1].count("says [Texas]") == 2


def test_modes_and_layers_are_passed_on(steer, folders):
    model, first = unweave.load(*map(str, folders[:2])), nodes(folders)[0]
    for words, how in (
        (["--mode", "open"], {"mode": "open"}),
        (["--mode", "frozen"], {"mode": "frozen"}),
        (["--layers", "0-1"], {"layers": range(2)}),
    ):
        facts = json.loads(steer("--scale", f"{first}=-3", *words, "--json")[1])
        assert facts["kl"] == pytest.approx(
            unweave.intervene(model, PROMPT, [scale(first, -3.0)], **how).kl(), rel=1e-3
        )
    assert facts["layers"] == [0, 1]
    assert json.loads(steer("--add", "1_2_3=4", "--layers", "1", "--json")[1])["layers"] == [1, 1]


def test_everything_for_people(steer, folders, tmp_path):
    (tmp_path / "names.json").write_text(json.dumps({"Texas": nodes(folders), "empty $[name]": ["1_2_*"]}))
    words = [
        "--supernodes",
        "names.json",
        "--scale",
        "Texas=-2",
        "--set",
        "empty $[name]=4",
        "--watch",
        "Texas",
        "--generate",
        "4",
        "--sweep",
        "-4:4",
        "--plot",
        "p/x.svg",
    ]
    code, out, err = steer(*words)
    assert (code, err.strip()) == (0, "")
    for phrase in (
        "Prompt",
        "Changed",
        "Watched",
        "What comes next",
        "KL",
        "Dose",
        "Default",
        "Steered",
        "Drawn to p/x.svg",
        "-4",
        "+4",
    ):
        assert phrase in out
    assert (tmp_path / "p" / "x.svg").read_bytes().startswith(b"<?xml")
    facts = json.loads(steer(*words, "--json")[1])
    assert [row["factor"] for row in facts["sweep"]["rows"]] == [-4, -3, -2, -1, 0, 1, 2, 3, 4]
    assert facts["changes"][0]["name"] == "Texas"
    assert facts["changes"][0]["features"] == nodes(folders)
    assert 1 <= len(facts["generation"]["steered"]["ids"]) <= 4


def test_a_swap(steer, folders):
    model = unweave.load(*map(str, folders[:2]))
    swapped = unweave.swap(model, PROMPT, [int(i) for i in OTHER.split()])
    facts = json.loads(steer("--swap-from", OTHER, "--json")[1])
    assert facts["kl"] == pytest.approx(unweave.intervene(model, PROMPT, swapped).kl(), rel=1e-3)
    assert len(facts["changed"]) == len(swapped)
    assert "more, with smaller changes" in steer("--swap-from", OTHER)[1]
    there = json.loads(steer("--swap-from", OTHER, "--swap-at", "3", "--swap-factor", "2", "--json")[1])
    assert {row["node"].split("_")[2] for row in there["changed"]} == {"3"}
    dosed = json.loads(steer("--swap-from", OTHER, "--swap-factor", "2", "--sweep", "0:1:2", "--json")[1])
    assert [row["kl"] for row in dosed["sweep"]["rows"]] == pytest.approx([0.0, facts["kl"]], rel=1e-3, abs=1e-6)
    only = swapped[0].features[0].id
    assert [
        row["node"] for row in json.loads(steer("--swap-from", OTHER, "--swap-only", only, "--json")[1])["changed"]
    ] == [only]


def test_generated_tokens_alone(steer):
    code, out, _ = steer("--set", "1_5_+=40", "--generate", "3", "--temperature", "2", "--seed", "4", "--json")
    facts = json.loads(out)
    assert code == 0
    assert "next" not in facts
    assert facts == json.loads(
        steer("--set", "1_5_+=40", "--generate", "3", "--temperature", "2", "--seed", "4", "--json")[1]
    ) | {"seconds": facts["seconds"]}
    assert "Steered" in steer("--set", "1_5_+=40", "--generate", "3")[1]


def test_the_graphs_prompt_is_the_default(steer, folders):
    first = nodes(folders)[0]
    facts = json.loads(steer("--graph", folders[2], "--ablate", first, "--json", prompt=None)[1])
    assert facts["kl"] == json.loads(steer("--ablate", first, "--json")[1])["kl"]
    layer, feature, _ = first.split("_")
    assert steer("--graph", folders[2], "--ablate", f"{layer}_{feature}_*")[0] == 0


NAMES = {
    "no.json": (None, "cannot read supernodes from no.json: No such file"),
    "broken.json": ('{"a": [\n"1_2_3",,]}', "broken.json is not JSON: line 2"),
    "list.json": ("[1]", "list.json does not hold supernodes"),
    "number.json": ('{"Texas": 3}', "supernode 'Texas' should be a list of feature ids"),
    "none.json": ('{"Texas": []}', "supernode 'Texas' should be a list"),
    "word.json": ('{"Texas": ["Dallas"]}', "'Dallas' is not a feature"),
    "fine.json": (
        '{"Texas": ["1_2_3"], "Dallas": ["1_2_4"]}',
        "'Utah' is neither a feature's id (such as '12_345_5') nor a supernode; the file has: Texas, Dallas",
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_bad_supernode_files(steer, tmp_path, name):
    content, message = NAMES[name]
    if content is not None:
        (tmp_path / name).write_text(content)
    refused(steer("--supernodes", name, "--scale", "Utah=2"), message)


BAD = {
    "nothing": ([], "nothing to change"),
    "node": (["--ablate", "texas"], "'texas' is neither a feature's id", "--supernodes FILE"),
    "id": (["--ablate", "1_2"], "'1_2' is not a feature; ids look like '12_345_5'"),
    "error node": (["--ablate", "1_error_mlp_2"], "only features can be changed"),
    "layer": (["--ablate", "7_1_2"], "layer 7 is outside the model's 3 layers"),
    "feature": (["--ablate", f"1_{WIDTHS[1]}_2"], f"feature {WIDTHS[1]} is outside layer 1's {WIDTHS[1]} features"),
    "position": (["--ablate", "1_2_9"], "1_2_9: position 9 is outside the prompt of 6 tokens (0 to 5)"),
    "factor": (["--scale", "1_2_3=much"], "--scale 1_2_3=much: 'much' is not a number"),
    "no factor": (["--scale", "1_2_3"], "--scale 1_2_3: give NODE=NUMBER"),
    "nan": (["--set", "1_2_3=nan"], "not a finite number"),
    "twice": (["--ablate", "1_2_3", "--set", "1_2_3=2"], "1_2_3 is set or scaled twice"),
    "mode": (["--ablate", "1_2_3", "--mode", "closed"], "mode 'closed' is unknown"),
    "layers": (["--ablate", "1_2_3", "--layers", "two"], "--layers two: give the first and the last layer"),
    "range": (
        ["--ablate", "1_2_3", "--layers", "1-9"],
        "layers 1 to 9 are not a range within the model's layers 0 to 2",
    ),
    "backwards": (["--ablate", "1_2_3", "--layers", "2-1"], "are not a range"),
    "sweep": (["--ablate", "1_2_3", "--sweep", "wide"], "--sweep wide: give two factors"),
    "sweep of one": (["--ablate", "1_2_3", "--sweep", "1:2:1"], "at least 2"),
    "plot": (["--ablate", "1_2_3", "--plot", "x.svg"], "--plot needs --sweep"),
    "plot kind": (["--ablate", "1_2_3", "--sweep", "0:1", "--plot", "x.gif"], "must end in .svg"),
    "swap only": (["--ablate", "1_2_3", "--swap-only", "1_2_3"], "--swap-only needs --swap-from"),
    "swap at": (["--ablate", "1_2_3", "--swap-at", "2"], "--swap-at needs --swap-from"),
    "swap with itself": (["--swap-from", IDS], "differ in no feature"),
    "swap place": (["--swap-from", OTHER, "--swap-at", "8"], "swap: position 8 is outside the prompt of 6 tokens"),
    "tokens": (["--ablate", "1_2_3", "--generate", "0"], "--generate is 0"),
    "temperature": (["--ablate", "1_2_3", "--generate", "1", "--temperature", "-2"], "temperature is -2"),
    "token": (["--ablate", "1_2_3", "--token", "#50"], "token id 50 is outside"),
    "generated": (["--ablate", "1_2_+"], "use generate (--generate N)"),
    "no graph": (["--ablate", "1_2_3", "--graph", "none.graph.safetensors"], "none.graph.safetensors"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(steer, name, tmp_path):
    words, *messages = BAD[name]
    refused(steer(*words), *messages)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_no_prompt_at_all(steer):
    refused(steer("--ablate", "1_2_3", prompt=None), "no prompt; give a PROMPT or a --graph")


def test_graphs_of_something_else(steer, run, folders, tmp_path):
    graph = unweave.Graph.load(folders[2])
    absent = next(f"1_{feature}_2" for feature in range(WIDTHS[1]) if f"1_{feature}_2" not in graph.nodes.rows)
    refused(steer("--graph", folders[2], "--ablate", absent), f"no node '{absent}' in this graph")
    never = next(
        feature for feature in range(WIDTHS[1]) if not ((graph.nodes.layer == 1) & (graph.nodes.index == feature)).any()
    )
    refused(
        steer("--graph", folders[2], "--ablate", f"1_{never}_*"),
        f"feature {never} of layer 1 is at no position of this graph",
    )
    first = nodes(folders)[0]
    graph.with_provenance(transcoders_sha256="0" * 64, transcoders="another").save("hash.graph.safetensors")
    refused(
        steer("--graph", "hash.graph.safetensors", "--ablate", first),
        "was traced with another dictionary, another (sha256 000000000000, this one",
    )
    graph.with_provenance(model="elsewhere").save("model.graph.safetensors")
    refused(
        steer("--graph", "model.graph.safetensors", "--ablate", first),
        "is a graph of model elsewhere, not of",
        "give --model elsewhere",
    )
    graph.with_provenance(n_layers=9).save("deep.graph.safetensors")
    refused(steer("--graph", "deep.graph.safetensors", "--ablate", first), "is a graph of a model of 9 layers")
    write_json(graph, tmp_path / "foreign.json")
    assert steer("--graph", "foreign.json", "--ablate", first)[0] == 0


def test_the_documentation_lists_every_option(run):
    page = (Path(__file__).parents[1] / "docs" / "cli.md").read_text()
    options = set(re.findall(r"--[a-z-]+", run("steer", "--help")[1])) - {"--help", "--no-ids"}
    assert len(options) > 20
    assert [option for option in sorted(options) if f"`{option}`" not in page] == []


def test_names_in_python(folders, tmp_path):
    model, graph = unweave.load(*map(str, folders[:2])), unweave.Graph.load(folders[2])
    check_graph(graph, folders[2], model)
    (tmp_path / "names.json").write_text('{"Texas": ["1_2_3", "1_2_3", "0_4_*"]}')
    names = Names(model, read_supernodes(tmp_path / "names.json"))
    assert names.features("Texas") == ((unweave.Feature(1, 3, 2), unweave.Feature(0, "*", 4)), "Texas")
    assert names.features("1_2_-1") == ((unweave.Feature(1, -1, 2),), None)
    with pytest.raises(GraphError):
        Names(model, {}, graph).features("2_33_0")
    assert torch.equal(
        unweave.intervene(model, PROMPT, [ablate(*names.features("Texas"))]).logits,
        unweave.intervene(model, PROMPT, [ablate(["0_4_*", "1_2_3"])]).logits,
    )
