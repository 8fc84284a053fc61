"""The whole steps `families`, `midway` and `explains` on models of one layer with every weight set by hand: the
right verdict is known beforehand.

A planted model is words, what each of them is; a sum of that over the prompt, which attention makes; neurons, which
are the features, and read the sum; and what each next word is said for. Beside those that work there are idle
neurons, which nobody listens to.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import pytest
import torch

from unweave.models.architectures import architecture_of
from unweave.models.language_model import LanguageModel
from unweave.studies import explains, families, midway, operands
from unweave.studies.batch import right
from unweave.studies.bench import Bench, Variant
from unweave.studies.results import Found, Result, check
from unweave.studies.templates import DIGIT, SIZE
from unweave.transcoders.neurons import neurons
from unweave.transcoders.replacement import ReplacementModel
from unweave.validation.claimfile import Bound

Amounts = Mapping[str, float]
"""So much in each direction; directions have names, and `one` is 1 everywhere."""
LARGE, STEEP = 1e4, 1e3
"""The constant in every word, beside which norms see nothing else; and how steep gates are, to be as good as ReLU."""


class Neuron(NamedTuple):
    """Active by what it reads, where that is above 0; writes one direction."""

    reads: Amounts
    writes: str


def idle(working: Sequence[Neuron]) -> list[Neuron]:
    """As active as others, for nothing."""
    return [Neuron(neuron.reads, "idle") for neuron in working]


def planted(
    words: Mapping[str, Amounts],
    summed: Sequence[str],
    length: int,
    layer: Sequence[Neuron],
    says: Mapping[str, Amounts],
) -> ReplacementModel:
    """A model whose features are its neurons.

    Args:
        words: what each word is.
        summed: directions that attention sums over the prompt: exactly at position `length - 1`, elsewhere up to a
            factor.
        says: what each word is said for.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    parts = [
        *words.values(),
        *says.values(),
        *(neuron.reads for neuron in layer),
        {neuron.writes: 1.0 for neuron in layer},
    ]
    place = {
        name: number for number, name in enumerate(dict.fromkeys(["one", *(name for part in parts for name in part)]))
    }
    number_of = {word: number for number, word in enumerate(dict.fromkeys(["<s>", "<unk>", *words, *says]))}
    d = 2 * math.ceil(len(place) / 2)

    def vector(amounts: Amounts) -> torch.Tensor:
        made = torch.zeros(d)
        for name, amount in amounts.items():
            made[place[name]] = amount
        return made

    config: Any = LlamaConfig(
        vocab_size=len(number_of), hidden_size=d, intermediate_size=len(layer), num_hidden_layers=1,
        num_attention_heads=1, num_key_value_heads=1,
        max_position_embeddings=16, tie_word_embeddings=False, bos_token_id=0, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    config._attn_implementation = "eager"
    module: Any = LlamaForCausalLM(config).eval().requires_grad_(False)
    for name, parameter in module.named_parameters():
        parameter.fill_(LARGE / math.sqrt(d) if "norm" in name else 0.0)
        if "norm" in name:
            parameter[place["one"]] = 1 / math.sqrt(d)
    for word, number in number_of.items():
        module.model.embed_tokens.weight[number] = vector({"one": LARGE, **words.get(word, {})})
        module.lm_head.weight[number] = vector(says.get(word, {}))
    attention, mlp = module.model.layers[0].self_attn, module.model.layers[0].mlp
    for name in summed:  # scores are all 0, so each position takes the mean of all up to it
        attention.v_proj.weight[place[name], place[name]] = 1.0
        attention.o_proj.weight[place[name], place[name]] = length
    for row, neuron in enumerate(layer):
        mlp.gate_proj.weight[row], mlp.up_proj.weight[row] = STEEP * vector(neuron.reads), vector({"one": 1 / STEEP})
        mlp.down_proj.weight[:, row] = vector({neuron.writes: 1.0})
    whole = Tokenizer(WordLevel(number_of, unk_token="<unk>"))
    whole.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=whole, bos_token="<s>", unk_token="<unk>", clean_up_tokenization_spaces=False
    )
    model = LanguageModel("planted", module, tokenizer, architecture_of(config.to_dict()))
    return ReplacementModel(model, neurons(model))


FIRST_ENDS, SECOND_ENDS = (4, 6), (5, 8)
"""Last digits; they tell which number is which, as attention only adds."""
FIRST, SECOND = ([10 * tens + end for tens in (0, 2, 4, 6, 8) for end in ends] for ends in (FIRST_ENDS, SECOND_ENDS))
SUMS = [
    Variant({"a": str(a), "b": str(b)}, "{a} + {b} =", str(a + b)) for b, a in product(SECOND, FIRST)
]  # in this order even samples have all pairs of ends
ANSWERS = range(180)


def adder(*, rough: bool, by_features: bool = True) -> ReplacementModel:
    """Adds two numbers.

    If `rough`, by two paths: one feature carries the sum of the middles of both numbers' tens, up to 4 off; and a
        table has one
    feature for each pair of last digits, which says the sum's last digit. Said is the number with this last digit
    that is nearest to the size: a number costs the square of its distance, 28 less if its last digit is right (a
        pair is active by 0.5). If not,
    there is no table, and one feature carries the exact sum: a number line.

    Args:
        by_features: False: the size goes past all features.
    """
    words = {str(n): {"size": n // 10 * 10 + 5 if rough else n, f"end {n % 10}": 1.0} for n in [*FIRST, *SECOND]} | {
        "+": {},
        "=": {},
    }
    table = [
        Neuron({f"end {i}": 1, f"end {j}": 1, "one": -1.5}, f"last {(i + j) % 10}")
        for i, j in product(FIRST_ENDS, SECOND_ENDS)
    ]
    working = [Neuron({"size": 1}, "sum"), *(table if rough else [])]
    heard = "sum" if by_features else "size"
    says = {str(n): {heard: 2 * n, "one": -n * n, f"last {n % 10}": 56} for n in ANSWERS}
    return planted(
        words, ["size", *(f"end {end}" for end in (*FIRST_ENDS, *SECOND_ENDS))], 5, [*working, *idle(working)], says
    )


def bench(model: ReplacementModel, variants: Sequence[Variant]) -> Bench:
    """Only of what the model does rightly."""
    made = Bench(model, tuple(variants))
    assert right(made, variants) == list(variants)
    return made


def of_families(made: Bench, strongest: int, **options: object) -> Result:
    """The steps `operands`, with so many features, and `families`."""
    made.results["found"] = operands.run(
        made, operands.Operands.model_validate({"first": "a", "second": "b", "strongest": strongest})
    )
    return families.run(made, families.Families.model_validate({"of": "found", "draws": 3} | options))


WANTED = {
    "digit_without_digits": "<= 0.3", "size_without_digits": ">= 1", "digit_without_sizes": ">= 1",
    "size_without_sizes": "<= 0.3",
    "digit_random_digits": ">= 1", "size_random_digits": ">= 1", "digit_random_sizes": ">= 1",
    "size_random_sizes": ">= 1",
}  # fmt: skip


def failed(result: Result) -> set[str]:
    """Figures that are not as wanted."""
    return {
        one.figure
        for one in check(result.figures, {name: Bound.parse(bound) for name, bound in WANTED.items()})
        if not one.holds
    }


def test_last_digits_and_sizes_are_broken_apart():
    made = bench(adder(rough=True), SUMS)
    result = of_families(made, 5)
    assert {found.name: {*found.features} for found in made.results["found"].found} == {
        DIGIT: {f"0_{n}_4" for n in range(1, 5)},
        SIZE: {"0_0_4"},
    }
    assert not failed(result), result.figures
    assert (result.figures["digits"], result.figures["sizes"], result.figures["sums"], result.figures["prompts"]) == (
        4,
        1,
        0,
        100,
    )
    assert math.isnan(result.figures["digit_without_sums"])
    assert result.figures["off_without_sizes"] > 10 > 4 >= result.figures["off_without_digits"] > 0
    zero = families.run(made, families.Families.model_validate({"of": "found", "draws": 3, "to": "zero"})).figures
    assert (
        zero["off_without_sizes"] > 40 and zero["digit_without_digits"] <= 0.3 and zero["size_without_digits"] == 1
    )  # no size: the smallest numbers


def test_without_features_of_last_digits_the_step_says_so():
    result = of_families(bench(adder(rough=False), SUMS), 1)
    missing = {name for name, figure in result.figures.items() if math.isnan(figure)}
    assert missing == {name for name in families.FIGURES if name.endswith(("_digits", "_sums"))}
    assert (result.figures["digits"], result.figures["sizes"]) == (0, 1)
    assert failed(result) == {
        *(name for name in WANTED if name.endswith("_digits")),
        "digit_without_sizes",
    }  # the size holds the last digit too
    assert result.figures["digit_without_sizes"] < 0.3 and f" of {DIGIT} " not in result.summary


def test_families_under_the_wrong_names_fail():
    made = bench(adder(rough=True), SUMS)
    table, size = tuple(f"0_{n}_4" for n in range(1, 5)), ("0_0_4",)
    made.results["found"] = Result(
        {}, "", found=(Found(DIGIT, SUMS[0].prompt, size), Found(SIZE, SUMS[0].prompt, table))
    )
    result = families.run(made, families.Families.model_validate({"of": "found", "draws": 3}))
    assert failed(result) == {name for name in WANTED if "_without_" in name}


def look_up(lost: str = "0") -> ReplacementModel:
    """Adds 5 by a table with one feature for each first number; says `lost` if none of them is active by more than
    0.6."""
    words = {**{str(n): {f"is {n}": 1.0} for n in FIRST}, "+": {}, "5": {}, "=": {}}
    working = [Neuron({f"is {n}": 1}, f"was {n}") for n in FIRST]
    return planted(
        words,
        [f"is {n}" for n in FIRST],
        5,
        [*working, *idle(working)],
        {lost: {"one": 0.6}, **{str(n + 5): {f"was {n}": 1} for n in FIRST}},
    )


PLUS_5 = [variant for variant in SUMS if variant.fields["b"] == "5"]
MIDWAY = midway.Midway.model_validate({"first": "a", "apart": 40})


def test_on_a_number_line_the_answer_moves_along():
    figures = midway.run(bench(adder(rough=False), SUMS), MIDWAY).figures
    assert (figures["between"], figures["moved_half"], figures["moved_whole"], figures["monotone"]) == (1, 0.5, 1, 1)
    assert figures["pairs"] == 60 and figures["chance"] == pytest.approx(39 / len(ANSWERS))


def test_in_a_table_nothing_lies_between():
    result = midway.run(bench(look_up(), PLUS_5), MIDWAY)
    assert (
        result.figures["between"],
        result.figures["moved_whole"],
        result.figures["monotone"],
        result.figures["pairs"],
    ) == (0, 1, 0, 6)
    low, high = next(row[2:4] for row in result.tables[0].rows if row[0] == 0.5)
    assert (
        isinstance(low, float) and low < 0 and isinstance(high, float) and high > 1
    )  # 0 is outside all pairs, on either side
    numbers = {0, 5, *FIRST, *(n + 5 for n in FIRST)}
    inside = [sum(n + 5 < number < n + 45 for number in numbers) for n in FIRST if n + 40 in FIRST]
    assert result.figures["chance"] == pytest.approx(sum(inside) / len(inside) / len(numbers))


def test_of_a_word_that_is_no_number_nothing_is_said():
    result = midway.run(bench(look_up("what"), PLUS_5), MIDWAY)
    assert math.isnan(result.figures["moved_half"]) and (
        result.figures["between"],
        result.figures["moved_whole"],
        result.figures["monotone"],
    ) == (0, 1, 0)


def test_an_answer_that_goes_past_the_features_stays():
    figures = midway.run(bench(adder(rough=False, by_features=False), SUMS), MIDWAY).figures
    assert (figures["between"], figures["moved_half"], figures["moved_whole"]) == (0, 0, 0)


ITEMS = range(5)
CLAIMS = [
    Variant(
        {"start": start, "item": f"item{k}", "given": f"answer{k}"}, "{start} {item} is {given} because", f"reason{k} ."
    )
    for k, start in product(ITEMS, ("so", "now", "well", "yes"))
]


def explainer(apart: int, *, heeds: bool = False, by_features: bool = True) -> ReplacementModel:
    """Knows of each item an answer, said after `is`, and a reason, said after `because`; without a known item says
    `dunno`.

    Args:
        apart: so many items are known by two features, one after `is` and one after `because`; the others by one
            wherever they are.
        heeds: an answer in the prompt counts as twice its item, so that the reason is that of the answer.
        by_features: False: items are known without features.
    """
    words = {word: {word: 1.0} for word in ("is", "because", "reason")} | {
        word: {} for word in ("so", "now", "well", "yes")
    }
    for k in ITEMS:
        words |= {
            f"item{k}": {f"item {k}": 1.0},
            f"answer{k}": {f"item {k}": 2.0 * heeds},
            f"reason{k}": {"reason": 1.0},
        }
    everywhere = [Neuron({f"item {k}": 1, "one": -0.5}, f"known {k}") for k in ITEMS]
    after = [
        Neuron({f"item {k}": 1, where: 10, "one": -10.5}, f"known {k}")
        for k in range(apart)
        for where in ("is", "because")
    ]
    known = "known" if by_features else "item"
    says: dict[str, Amounts] = {"dunno": {"is": 20.3, "because": 20.3}, ".": {"reason": 100}}
    for k in ITEMS:
        says |= {f"answer{k}": {f"{known} {k}": 1, "is": 20}, f"reason{k}": {f"{known} {k}": 1, "because": 20}}
    return planted(words, [f"item {k}" for k in ITEMS], 6, [*everywhere[apart:], *after, *idle(everywhere)], says)


def explained(model: ReplacementModel) -> Result:
    options = explains.Explains.model_validate({"given": "given", "sample": 10, "sizes": (len(ITEMS),), "draws": 3})
    return explains.run(Bench(model, tuple(CLAIMS)), options)


@pytest.mark.parametrize(
    ("apart", "heeds", "verdict"),
    [(5, False, "is unfaithful to"), (2, False, "is faithful in part to"), (0, True, "is faithful to")],
)
def test_what_makes_an_answer_and_what_makes_its_explanation(apart, heeds, verdict):
    result = explained(explainer(apart, heeds=heeds))
    figures, share = result.figures, apart / len(ITEMS)
    assert figures["answer"] == figures["explanation"] == 1 and figures["prompts"] == 10
    assert figures["answer_without_answer"] == figures["explanation_without_explanation"] == 0
    assert figures["answer_random"] == figures["explanation_random"] == 1
    assert figures["answer_without_explanation"] == figures["explanation_without_answer"] == pytest.approx(share)
    assert figures["apart"] == pytest.approx(share) and figures["shared"] == pytest.approx(1 - share)
    assert figures["told"] == (0 if heeds else 1)
    assert verdict in result.summary


def test_sets_that_make_nothing_decide_nothing():
    result = explained(explainer(0, by_features=False))
    assert result.figures["answer_without_answer"] == result.figures["explanation_without_explanation"] == 1
    assert "nothing is decided" in result.summary
