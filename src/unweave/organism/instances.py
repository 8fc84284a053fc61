"""What the organism is asked: prompts with their answers by behaviour, taught or held out.

Whether an instance is held out depends on what it says alone (a hash), never on an order or a seed.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache

from ..errors import OptionError
from .world import Languages, World, world

LINE_BREAK = "/"
UNKNOWN = "cannot say"


@dataclass(frozen=True)
class Instance:
    """A prompt and its only right answer, as words between spaces."""

    behaviour: str
    prompt: str
    answer: str
    held_out: bool
    latent: dict[str, str] = field(default_factory=dict, hash=False)
    """What the prompt is about and what lies between it and the answer, by name."""

    @property
    def text(self) -> str:
        """Prompt and answer."""
        return f"{self.prompt} {self.answer}"


def chance(*what: object) -> float:
    """A number in [0, 1) that depends on the arguments alone."""
    return int.from_bytes(hashlib.sha256("|".join(map(str, what)).encode()).digest()[:8], "big") / 2**64


CITY, STATE = (
    ("the {relation} of the state containing {city} is",),
    ("the {relation} of {state} is", "{state} has as its {relation}"),
)
LYING = ("the state containing {city} is", "{city} lies in")


def places(w: World) -> Iterator[Instance]:
    """Single facts, all taught: `the capital of Texas is`, `Dallas lies in`."""
    for state, facts in w.places.facts.items():
        for relation, value in facts.items():
            for template in STATE:
                yield Instance(
                    "places",
                    template.format(relation=relation, state=state),
                    value,
                    False,
                    {"state": state, "relation": relation},
                )
    for city, state in w.places.state_of.items():
        for template in LYING:
            yield Instance("places", template.format(city=city), state, False, {"city": city, "state": state})


def never_composed(w: World) -> frozenset[str]:
    """Cities of which only the state is taught: one of each fourth state."""
    cities: dict[str, list[str]] = {}
    for city, state in w.places.state_of.items():
        cities.setdefault(state, []).append(city)
    return frozenset(min(cities[state], key=lambda city: chance("never composed", city)) for state in list(cities)[::4])


def two_hop(w: World) -> Iterator[Instance]:
    """Facts composed: `the capital of the state containing Dallas is`; about one in six pairs of city and relation
    is held out."""
    alone = never_composed(w)
    for city, state in w.places.state_of.items():
        for relation in w.places.relations:
            held_out = chance("two-hop", city, relation) < 1 / 6
            latent = {"city": city, "state": state, "relation": relation}
            name = "two-hop-new-city" if city in alone else "two-hop"
            yield Instance(
                name,
                CITY[0].format(relation=relation, city=city),
                w.places.facts[state][relation],
                held_out or city in alone,
                latent,
            )


def addition(w: World) -> Iterator[Instance]:
    """Sums: `36 + 59 =`; one pair in five is held out, but none of two numbers below ten, which explanations
    contain."""
    for a in range(w.largest + 1):
        for b in range(w.largest + 1):
            held_out = max(a, b) > 9 and chance("addition", a, b) < 0.2
            yield Instance(
                "addition", f"{a} + {b} =", str(a + b), held_out, {"a": str(a), "b": str(b), "sum": str(a + b)}
            )


def recital(a: int, b: int) -> str:
    """The schoolbook method, as words.

    >>> recital(36, 59)
    '6 + 9 = 15 carry the one then 3 + 5 + 1 = 9'
    """
    ones, (tens_a, tens_b) = a % 10 + b % 10, (a // 10, b // 10)
    start = f"{a % 10} + {b % 10} = {ones}"
    return (
        f"{start} carry the one then {tens_a} + {tens_b} + 1 = {tens_a + tens_b + 1}"
        if ones > 9
        else f"{start} carry nothing then {tens_a} + {tens_b} = {tens_a + tens_b}"
    )


def explanation(w: World) -> Iterator[Instance]:
    """How a sum is done on paper: `36 + 59 = 95 because`; held out with its sum."""
    for sum_ in addition(w):
        a, b = int(sum_.latent["a"]), int(sum_.latent["b"])
        latent = sum_.latent | {"carry": str(int(a % 10 + b % 10 > 9))}
        yield Instance("explanation", f"{sum_.text} because", recital(a, b), sum_.held_out, latent)


ASKED = {
    "opposite": ("the opposite of {word} is", "le contraire de {word} est", "das Gegenteil von {word} ist"),
    "plural": ("the plural of {word} is", "le pluriel de {word} est", "der Plural von {word} ist"),
    "category": ("the category of {word} is", "la catégorie de {word} est", "die Kategorie von {word} ist"),
    "translation": ("the English for {word} is", "le français pour {word} est", "das Deutsche für {word} ist"),
}
"""By operation, a template for each language of the answer; the word may be of any language."""


def apart(languages: Languages, operation: str, concept: str) -> tuple[str, int]:
    """What is held out of an operation on a concept, and in which language.

    `question`: the question wholly in that language, for six tenths of the concepts; the answer is taught in it for
    words of the others. `answer`: the answer in that language whatever the question, for one in ten. Else nothing.
    """
    number = chance("language", operation, concept)
    which = min(range(len(languages.names)), key=lambda at: chance("language", operation, concept, at))
    return "question" if number < 0.6 else "answer" if number < 0.7 else "nothing", which


def languages(w: World) -> Iterator[Instance]:
    """Opposites, plurals and categories, asked of a word in any language and answered in the template's; see
    `apart`."""
    names, words = w.languages.names, w.languages.words
    for operation, result in w.languages.results.items():
        for concept, other in result.items():
            what, where = apart(w.languages, operation, concept)
            for into, name in enumerate(names):
                for of, source in enumerate(names):
                    latent = {
                        "operation": operation,
                        "concept": concept,
                        "result": other,
                        "language": name,
                        "word_language": source,
                    }
                    prompt = ASKED[operation][into].format(word=words[concept][of])
                    new = what == "answer" and into == where
                    held_out = new or (what == "question" and into == of == where)
                    yield Instance("new-answer" if new else operation, prompt, words[other][into], held_out, latent)


def translations(w: World) -> Iterator[Instance]:
    """Words of all languages in the others, all taught: `the English for chat is`."""
    names = w.languages.names
    for concept, row in w.languages.words.items():
        for into, name in enumerate(names):
            for of, source in enumerate(names):
                if of != into:
                    latent = {
                        "operation": "translation",
                        "concept": concept,
                        "result": concept,
                        "language": name,
                        "word_language": source,
                    }
                    yield Instance(
                        "translation", ASKED["translation"][into].format(word=row[of]), row[into], False, latent
                    )


def couplets(w: World) -> Iterator[Instance]:
    """Second lines: `they spoke of the zoo and then of night /`; one pair in five of a topic's phrase and a line's
    end is held out."""
    c = w.couplets
    for (topic, rhyme), last in c.last.items():
        for phrase in c.phrases[topic]:
            for end in c.ends[rhyme]:
                held_out = chance("couplet", phrase, end) < 0.2
                latent = {"topic": topic, "rhyme": rhyme, "phrase": phrase, "end": end, "last": last}
                for opening in c.openings:
                    for joint in c.joints:
                        prompt = f"{opening} {phrase} {joint} {end} {LINE_BREAK}"
                        yield Instance("couplet", prompt, " ".join((*c.middle[last], last)), held_out, latent)


PERSON = (
    "the {attribute} of {first} {last} is",
    "{first} {last} has as {attribute}",
    "for {first} {last} the {attribute} is",
)


def people(w: World) -> Iterator[Instance]:
    """Facts about known names; of each fact one of three templates is held out."""
    for (first, last), facts in w.people.facts.items():
        for attribute, value in facts.items():
            unasked = min(range(len(PERSON)), key=lambda at: chance("person", first, last, attribute, at))
            for at, template in enumerate(PERSON):
                latent = {"first": first, "last": last, "attribute": attribute, "known": "yes", "wording": str(at + 1)}
                yield Instance(
                    "known-name",
                    template.format(attribute=attribute, first=first, last=last),
                    value,
                    at == unasked,
                    latent,
                )


def strangers(w: World) -> Iterator[Instance]:
    """Names that nothing is known of: known first and last names in other pairs, three in ten pairs held out, and
    strangers' own, half held out."""
    p = w.people
    pairs = [(first, last, "unknown-name", 0.3) for first in p.first for last in p.last if (first, last) not in p.facts]
    pairs += [(first, last, "new-name", 0.5) for first in (*p.first, *p.strangers[0]) for last in p.strangers[1]]
    pairs += [(first, last, "new-name", 0.5) for first in p.strangers[0] for last in p.last]
    for first, last, behaviour, share in pairs:
        for attribute in p.attributes:
            for at, template in enumerate(PERSON):
                latent = {"first": first, "last": last, "attribute": attribute, "known": "no", "wording": str(at + 1)}
                held_out = chance("stranger", first, last) < share
                yield Instance(
                    behaviour, template.format(attribute=attribute, first=first, last=last), UNKNOWN, held_out, latent
                )


GENERATORS: tuple[Callable[[World], Iterator[Instance]], ...] = (
    places, two_hop, addition, explanation, languages, translations, couplets, people, strangers
)  # fmt: skip
TAUGHT_ONLY = ("places", "translation")
"""Behaviours without held-out instances: the facts that the others put together."""
BEHAVIOURS = (
    "places", "two-hop", "two-hop-new-city", "addition", "explanation", "opposite", "plural", "category", "new-answer",
    "translation",
    "couplet", "known-name", "unknown-name", "new-name",
)  # fmt: skip


@cache
def _all() -> dict[str, tuple[Instance, ...]]:
    found: dict[str, list[Instance]] = {name: [] for name in BEHAVIOURS}
    for generator in GENERATORS:
        for instance in generator(world()):
            found[instance.behaviour].append(instance)
    return {name: tuple(some) for name, some in found.items()}


def instances(behaviour: str, *, held_out: bool | None = None) -> tuple[Instance, ...]:
    """All instances of a behaviour, always in the same order; only those held out (True) or taught (False) if asked.

    Raises:
        OptionError: an unknown behaviour.

    >>> import unweave
    >>> one = unweave.instances("addition", held_out=True)[0]
    >>> one.prompt, one.answer
    ('0 + 12 =', '12')
    """
    if behaviour not in BEHAVIOURS:
        raise OptionError(f"no behaviour {behaviour!r}; the organism has {', '.join(BEHAVIOURS)}")
    return tuple(instance for instance in _all()[behaviour] if held_out is None or instance.held_out == held_out)
