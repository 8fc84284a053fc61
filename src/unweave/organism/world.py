"""The organism's world: places, numbers, words of three languages, couplets and people, and what follows from what."""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

DATA = Path(__file__).parents[1] / "data" / "organism"
"""What ships: the world, the model, its dictionaries, and the configs they are made by."""


@dataclass(frozen=True)
class Places:
    """Cities lie in states; states have a capital, a bird, ..."""

    relations: tuple[str, ...]
    facts: dict[str, dict[str, str]]
    """facts[state][relation]."""
    state_of: dict[str, str]
    """Of every city; capitals are not among the cities."""


@dataclass(frozen=True)
class Languages:
    """Concepts with a word in each of three languages, and three operations on concepts."""

    names: tuple[str, ...]
    words: dict[str, tuple[str, ...]]
    """Of every concept, in the order of the languages; a concept is called by its English word."""
    results: dict[str, dict[str, str]]
    """results[operation][concept] is a concept; operations are opposite, plural, category."""


@dataclass(frozen=True)
class Couplets:
    """The last word of a couplet follows from its topic and its rhyme, and the words before it from that word."""

    phrases: dict[str, tuple[str, ...]]
    """Of every topic."""
    ends: dict[str, tuple[str, ...]]
    """Words that end line one, by rhyme."""
    last: dict[tuple[str, str], str]
    """last[topic, rhyme]; each word occurs once."""
    middle: dict[str, tuple[str, ...]]
    """The words of line two before the last one, by the last one."""
    openings: tuple[str, ...]
    joints: tuple[str, ...]


@dataclass(frozen=True)
class People:
    """Known names (first, last) with a value for each attribute; and strangers' names, of whom nothing is known."""

    first: tuple[str, ...]
    last: tuple[str, ...]
    facts: dict[tuple[str, str], dict[str, str]]
    attributes: tuple[str, ...]
    strangers: tuple[tuple[str, ...], tuple[str, ...]]
    """First and last names that no known person has."""


@dataclass(frozen=True)
class World:
    """All that there is to know."""

    places: Places
    largest: int
    """Operands of sums run from 0 to this."""
    languages: Languages
    couplets: Couplets
    people: People


@cache
def world() -> World:
    """The world as it ships, from `world.toml`."""
    table = tomllib.loads((DATA / "world.toml").read_text(encoding="utf-8"))
    return World(
        _places(table["places"]),
        table["numbers"]["largest"],
        _languages(table["languages"]),
        _couplets(table["couplets"]),
        _people(table["people"]),
    )


def _places(table: dict) -> Places:
    relations = tuple(table["relations"])
    facts = {state: dict(zip(relations, row[:-1], strict=True)) for state, row in table["states"].items()}
    return Places(relations, facts, {city: state for state, row in table["states"].items() for city in row[-1].split()})


def _languages(table: dict) -> Languages:
    words: dict[str, tuple[str, ...]] = {}
    results: dict[str, dict[str, str]] = {"opposite": {}, "plural": {}, "category": {}}

    def concept(text: str) -> str:
        row = tuple(text.split())
        assert len(row) == 3 and words.setdefault(row[0], row) == row, text
        return row[0]

    for line in table["opposites"]:
        one, other = map(concept, line.split("|"))
        results["opposite"] |= {one: other, other: one}
    for category, nouns in table["nouns"].items():
        kind = concept(category)
        for line in nouns:
            one, many = map(concept, line.split("|"))
            results["plural"][one], results["category"][one] = many, kind
    return Languages(tuple(table["order"]), words, results)


def _couplets(table: dict) -> Couplets:
    rhymes = table["rhymes"]
    last, phrases = {}, {}
    for topic, (named, words) in table["topics"].items():
        phrases[topic] = tuple(phrase.strip() for phrase in named.split("|"))
        last |= {(topic, rhyme): word for rhyme, word in zip(rhymes, words.split(), strict=True) if word != "."}
    second = table["second"]
    first, articles, adjectives = (
        [p.strip() for p in second["first"].split("|")],
        second["second"].split(),
        second["third"].split(),
    )
    middle = {}
    for place, word in enumerate(last.values()):
        # Steps without a common divisor: words that share one of the three differ in the others.
        middle[word] = (
            *first[place % len(first)].split(),
            articles[place * 2 % len(articles)],
            adjectives[place * 3 % len(adjectives)],
        )
    ends = {rhyme: tuple(words.split()) for rhyme, words in table["ends"].items()}
    return Couplets(phrases, ends, last, middle, tuple(table["line"]["openings"]), tuple(table["line"]["joints"]))


def _people(table: dict) -> People:
    first, last = table["first"].split(), table["last"].split()
    values = {name: words.split() for name, words in table["attributes"].items()}
    facts = {}
    for number in range(table["known"]):
        name = (first[number % len(first)], last[(number * 5 + number // len(first) * 7) % len(last)])
        facts[name] = {
            attribute: words[(number * step + number // len(words)) % len(words)]
            for step, (attribute, words) in enumerate(values.items(), 1)
        }
    assert len(facts) == table["known"]
    strangers = table["strangers"]
    return People(
        tuple(first),
        tuple(last),
        facts,
        tuple(values),
        (tuple(strangers["first"].split()), tuple(strangers["last"].split())),
    )
