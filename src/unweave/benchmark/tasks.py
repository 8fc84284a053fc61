"""The benchmark's tasks: programs, what they compute as causal models, and how prompts are drawn."""

from collections.abc import Callable, Mapping
from random import Random

from .program import Program, at_least, both, copy, lookup, match, total
from .task import Task, Tokens, Values, Variable, last, redrawn, steps
from .tasks_more import brackets, indirect_object, sort_three


def two_hop() -> Task:
    """A person is in a city, the city in a country: the country is asked for, or its language, by way of the city."""
    people, cities, asked = [f"p{i}" for i in range(8)], [f"c{i}" for i in range(4)], ("r0", "r1")
    answers = {(city, relation): f"{relation}{city}" for city in cities for relation in asked}
    of = {person: cities[number // 2] for number, person in enumerate(people)}
    neurons = [
        *(lookup(0, "city", [f"token {p}" for p in people if of[p] == city], {f"city {city}": 1.0}) for city in cities),
        *(lookup(1, "city at the end", [f"moved {city}"], {f"asked {city}": 1.0}) for city in cities),
        *(
            both(2, "answer", f"asked {city}", f"token {relation}", {f"say {name}": 1.0})
            for (city, relation), name in answers.items()
        ),
    ]
    mover = match(
        1, "to the end", [("position 3", [f"token {person}" for person in people])],
        {f"city {city}": f"moved {city}" for city in cities},
    )  # fmt: skip
    program = Program(("BOS", *people, "f0", "f1", *asked, *answers.values()), 4, tuple(neurons), (mover,))

    def at(tokens: Tokens) -> int:
        return 1 if tokens[1] in of else 2

    def solve(tokens: Tokens, put: Mapping[str, object]) -> Values:
        city = put.get("city", of[tokens[at(tokens)]])
        end = put.get("city at the end", city)
        answer = put.get("answer", answers[str(end), tokens[3]])
        return {"city": city, "city at the end": end, "answer": answer}

    def draw(random: Random) -> Tokens:
        pair = [random.choice(people), random.choice(("f0", "f1"))]
        random.shuffle(pair)
        return ("BOS", *pair, random.choice(asked))

    def change(random: Random, tokens: Tokens) -> Tokens:
        place = at(tokens)
        return (*tokens[:place], random.choice(people), *tokens[place + 1 :])

    variables = (
        Variable("city", "middle", "city", at),
        Variable("city at the end", "middle", "city at the end", last(4)),
        Variable("answer", "answer", "answer", last(4)),
    )
    return Task("two-hop", two_hop.__doc__ or "", program, variables, solve, draw, change)


def induction() -> Task:
    """A letter that came before comes again: what followed it is the answer, by a match with `the previous one is`."""
    letters = [f"l{i}" for i in range(6)]
    neurons = [
        *(lookup(0, "previous", [f"before {x}"], {f"after {x}": 1.0}) for x in letters),
        *(lookup(1, "answer", [f"next {x}"], {f"say {x}": 1.0}) for x in letters),
    ]
    heads = (
        copy(0, "previous", {i: i - 1 for i in range(2, 6)}, {f"token {x}": f"before {x}" for x in letters}),
        match(1, "induction", [(f"token {x}", [f"after {x}"]) for x in letters],
              {f"token {x}": f"next {x}" for x in letters}),
    )  # fmt: skip
    program = Program(("BOS", *letters), 6, tuple(neurons), heads)

    def at(tokens: Tokens) -> int:
        return tokens.index(tokens[5]) + 1

    def solve(tokens: Tokens, put: Mapping[str, object]) -> Values:
        follows = {i: put.get("previous", tokens[i - 1]) if i == at(tokens) else tokens[i - 1] for i in range(2, 6)}
        found = [tokens[i] for i, before in follows.items() if before == tokens[5]]
        return {"previous": follows[at(tokens)], "answer": put.get("answer", found[0] if len(found) == 1 else None)}

    def draw(random: Random) -> Tokens:
        some = random.sample(letters, 4)
        return ("BOS", *some, random.choice(some[:3]))

    def change(random: Random, tokens: Tokens) -> Tokens:
        some = list(tokens[1:5])
        random.shuffle(some)
        if some[3] == tokens[5]:
            some[3], some[0] = some[0], some[3]
        return ("BOS", *some, tokens[5])

    variables = (Variable("previous", "middle", "previous", at), Variable("answer", "answer", "answer", last(6)))
    return Task("induction", induction.__doc__ or "", program, variables, solve, draw, change)


def count() -> Task:
    """How many of four letters are x: a lookup at each, a head that adds up, thresholds at the end."""
    length, most = 6, 4
    neurons = [
        lookup(0, "is x", ["token x"], {"one x": 1.0}),
        lookup(1, "any", ["token ?"], {"say 0": 1.0}),
        *steps(1, "count", "number of x", [str(k) for k in range(most + 1)]),
    ]
    adder = total(1, "adder", length, {"one x": "number of x"})
    digits = tuple(str(k) for k in range(most + 1))
    program = Program(("BOS", "x", "y", "z", "?", *digits), length, tuple(neurons), (adder,))

    def solve(tokens: Tokens, put: Mapping[str, object]) -> Values:
        seen: Values = {f"x at {i}": put.get(f"x at {i}", tokens[i] == "x") for i in range(1, 5)}
        number = put.get("count", sum(map(bool, seen.values())))
        return {**seen, "count": number, "answer": str(number)}

    def draw(random: Random) -> Tokens:
        return ("BOS", *(random.choice("xxyz") for _ in range(4)), "?")

    variables = (
        *(Variable(f"x at {i}", "middle", "is x", lambda tokens, i=i: i) for i in range(1, 5)),
        Variable("count", "answer", "count", last(length)),
    )
    return Task("count", count.__doc__ or "", program, variables, solve, draw, redrawn(draw, (1, 2, 3, 4)))


def modular_sum() -> Task:
    """The sum of two numbers modulo 4: two heads bring them together, a neuron a pair, a neuron a sum."""
    numbers = [str(i) for i in range(4)]
    neurons = [
        *(
            both(0, "pair", f"first {a}", f"second {b}", {f"sum {(int(a) + int(b)) % 4}": 1.0})
            for a in numbers
            for b in numbers
        ),
        *(lookup(1, "sum", [f"sum {a}"], {f"say {a}": 1.0}) for a in numbers),
    ]
    heads = (
        copy(0, "first", {3: 1}, {f"token {a}": f"first {a}" for a in numbers}),
        copy(0, "second", {3: 2}, {f"token {a}": f"second {a}" for a in numbers}),
    )
    program = Program(("BOS", *numbers, "="), 4, tuple(neurons), heads)

    def solve(tokens: Tokens, put: Mapping[str, object]) -> Values:
        first, second = put.get("pair", (int(tokens[1]), int(tokens[2])))  # pyright: ignore[reportGeneralTypeIssues]
        found = put.get("sum", (first + second) % 4)
        return {"pair": (first, second), "sum": found, "answer": str(found)}

    def draw(random: Random) -> Tokens:
        return ("BOS", random.choice(numbers), random.choice(numbers), "=")

    variables = (Variable("pair", "middle", "pair", last(4)), Variable("sum", "answer", "sum", last(4)))
    return Task("modular-sum", modular_sum.__doc__ or "", program, variables, solve, draw, redrawn(draw, (1, 2)))


def largest() -> Task:
    """The largest of three numbers: `at least k` at each, then whether any is; two that are saturate the threshold."""
    numbers, length = [str(i) for i in range(4)], 5
    neurons = [
        *(lookup(0, f"at least {k}", [f"token {n}" for n in numbers[k:]], {f"one {k}": 1.0}) for k in range(1, 4)),
        lookup(1, "any", ["token ?"], {"say 0": 1.0}),
    ]
    for k in range(1, 4):
        neurons += at_least(1, "largest", f"some {k}", 1, {f"say {k}": 1.0, f"say {k - 1}": -1.0})
    adder = total(1, "adder", length, {f"one {k}": f"some {k}" for k in range(1, 4)})
    program = Program(("BOS", *numbers, "?"), length, tuple(neurons), (adder,))

    def solve(tokens: Tokens, put: Mapping[str, object]) -> Values:
        seen: Values = {
            f"at least {k} at {i}": put.get(f"at least {k} at {i}", int(tokens[i]) >= k)
            for k in range(1, 4)
            for i in range(1, 4)
        }
        # one number's `at least k` may be put to what no number says; the unembedding then adds the thresholds up
        held = [any(seen[f"at least {k} at {i}"] for i in range(1, 4)) for k in range(1, 4)]
        found = put.get("largest", tuple(held))
        assert isinstance(found, tuple)
        logits = [found[k - 1] - (found[k] if k < 3 else 0) if k else 1 - found[0] for k in range(4)]
        best = [k for k in range(4) if logits[k] == max(logits)]
        return {**seen, "largest": found, "answer": str(best[0]) if len(best) == 1 else None}

    def draw(random: Random) -> Tokens:
        return ("BOS", *(random.choice(numbers) for _ in range(3)), "?")

    variables = (
        *(
            Variable(f"at least {k} at {i}", "middle", f"at least {k}", lambda tokens, i=i: i)
            for k in range(1, 4)
            for i in range(1, 4)
        ),
        Variable("largest", "answer", "largest", last(length)),
    )
    return Task("largest", largest.__doc__ or "", program, variables, solve, draw, redrawn(draw, (1, 2, 3)))


def two_routes() -> Task:
    """A fact that is known in two ways, either of which is enough: without one of them nothing changes."""
    people = [f"p{i}" for i in range(8)]
    has = [f"token {person}" for person in people[:4]]
    neurons = [
        lookup(0, "one way", has, {"one known": 1.0}),
        lookup(0, "other way", has, {"other known": 1.0}),
        lookup(1, "any", ["token ?"], {"say no": 0.5}),
        *at_least(1, "known", "known", 1, {"say yes": 1.0}),
    ]
    mover = match(1, "to the end", [("position 2", [f"token {p}" for p in people])],
                  {"one known": "known", "other known": "known too"})  # fmt: skip
    sums = tuple(
        neuron if neuron.variable != "known" else type(neuron)(
            neuron.layer, neuron.variable, {"known": 1.0, "known too": 1.0}, neuron.bias, neuron.writes
        )
        for neuron in neurons
    )  # fmt: skip
    program = Program(("BOS", *people, "?", "yes", "no"), 3, sums, (mover,))

    def solve(tokens: Tokens, put: Mapping[str, object]) -> Values:
        true = people.index(tokens[1]) < 4
        one, other = put.get("one way", true), put.get("other way", true)
        known = put.get("known", bool(one or other))
        return {"one way": one, "other way": other, "known": known, "answer": "yes" if known else "no"}

    def draw(random: Random) -> Tokens:
        return ("BOS", random.choice(people), "?")

    variables = (
        Variable("one way", "middle", "one way", lambda tokens: 1),
        Variable("other way", "middle", "other way", lambda tokens: 1),
        Variable("known", "answer", "known", last(3)),
    )
    return Task("two-routes", two_routes.__doc__ or "", program, variables, solve, draw, redrawn(draw, (1,)))


TASKS: dict[str, Callable[[], Task]] = {
    "two-hop": two_hop,
    "induction": induction,
    "count": count,
    "modular-sum": modular_sum,
    "largest": largest,
    "two-routes": two_routes,
    "brackets": brackets,
    "sort-three": sort_three,
    "indirect-object": indirect_object,
}
"""All tasks by name."""
