"""Tasks that count with a sign, that sort, and that find out who is not named twice."""

from collections.abc import Mapping
from random import Random

from .program import ALWAYS, SHARP, Program, ProgramHead, ProgramNeuron, at_least, both, lookup, match, total
from .task import Task, Tokens, Values, Variable, last, redrawn, steps

RANKS = ("smallest", "middle", "largest")


def brackets() -> Task:
    """How deep the end of a prompt is in brackets: those that open add, those that close take away, then thresholds."""
    length, most = 6, 4
    digits = tuple(str(k) for k in range(most + 1))
    neurons = [
        lookup(0, "opens", ["token ("], {"one deeper": 1.0}),
        lookup(0, "closes", ["token )"], {"one deeper": -1.0}),
        lookup(1, "any", ["token ?"], {"say 0": 1.0}),
        *steps(1, "depth", "depth", digits),
    ]
    adder = total(1, "adder", length, {"one deeper": "depth"})
    program = Program(("BOS", "(", ")", "x", "?", *digits), length, tuple(neurons), (adder,))

    def solve(tokens: Tokens, put: Mapping[str, object]) -> Values:
        found: Values = {}
        for name, token in (("opens", "("), ("closes", ")")):
            found |= {f"{name} at {i}": put.get(f"{name} at {i}", tokens[i] == token) for i in range(1, 5)}
        signed = sum((1 if name.startswith("opens") else -1) for name, there in found.items() if there)
        depth = put.get("depth", max(0, signed))
        return {**found, "depth": depth, "answer": str(depth)}

    def draw(random: Random) -> Tokens:
        chosen: list[str] = []
        for _ in range(4):
            chosen.append(random.choice("((x)" if chosen.count("(") > chosen.count(")") else "(((x"))
        return ("BOS", *chosen, "?")

    def change(random: Random, tokens: Tokens) -> Tokens:
        while True:
            other = redrawn(draw, (1, 2, 3, 4))(random, tokens)
            if all(other[:end].count(")") <= other[:end].count("(") for end in range(2, 6)):
                return other

    variables = (
        *(Variable(f"{name} at {i}", "middle", name, lambda tokens, i=i: i)
          for name in ("opens", "closes") for i in range(1, 5)),
        Variable("depth", "answer", "depth", last(length)),
    )  # fmt: skip
    return Task("brackets", brackets.__doc__ or "", program, variables, solve, draw, change)


def sort_three() -> Task:
    """Three numbers in order, one rank being asked for: `at least k` at each, counted, plus what the rank adds."""
    numbers, length = [str(i) for i in range(4)], 6
    neurons = [
        *(lookup(0, f"at least {k}", [f"token {n}" for n in numbers[k:]], {f"one {k}": 2.0}) for k in range(1, 4)),
        lookup(0, "asked for", ["token middle"], {"to spare": 2.0}),
        lookup(0, "asked for", ["token largest"], {"to spare": 4.0}),
        lookup(1, "any", ["token ?"], {"say 0": 2.0}),
    ]
    for k in range(1, 4):  # the smallest is at least k if all three are, the largest if one is
        for part in at_least(1, "sorted", f"number of {k}", 3, {f"say {k}": 2.0, f"say {k - 1}": -2.0}):
            reads = {f"number of {k}": 0.5, "moved to spare": 0.5}  # of 2 each, above the interference
            neurons.append(ProgramNeuron(part.layer, part.variable, reads, part.bias, part.writes))
    moves = {f"one {k}": f"number of {k}" for k in range(1, 4)} | {"to spare": "moved to spare"}
    adder = total(1, "adder", length, moves)
    program = Program(("BOS", *numbers, *RANKS, "?"), length, tuple(neurons), (adder,))

    def solve(tokens: Tokens, put: Mapping[str, object]) -> Values:
        seen: Values = {
            f"at least {k} at {i}": put.get(f"at least {k} at {i}", int(tokens[i]) >= k)
            for k in range(1, 4)
            for i in range(1, 4)
        }
        asked = put.get("asked for", RANKS.index(tokens[4]))
        assert isinstance(asked, int)
        # one number's `at least k` may be put to what no number says; the unembedding then adds the thresholds up
        held = tuple(sum(bool(seen[f"at least {k} at {i}"]) for i in range(1, 4)) + asked >= 3 for k in range(1, 4))
        found = put.get("sorted", held)
        assert isinstance(found, tuple)
        logits = [found[k - 1] - (found[k] if k < 3 else 0) if k else 1 - found[0] for k in range(4)]
        best = [k for k in range(4) if logits[k] == max(logits)]
        return {**seen, "asked for": asked, "sorted": found, "answer": str(best[0]) if len(best) == 1 else None}

    def draw(random: Random) -> Tokens:
        return ("BOS", *(random.choice(numbers) for _ in range(3)), random.choice(RANKS), "?")

    variables = (
        *(
            Variable(f"at least {k} at {i}", "middle", f"at least {k}", lambda tokens, i=i: i)
            for k in range(1, 4)
            for i in range(1, 4)
        ),
        Variable("asked for", "middle", "asked for", lambda tokens: 4),
        Variable("sorted", "answer", "sorted", last(length)),
    )
    return Task("sort-three", sort_three.__doc__ or "", program, variables, solve, draw, redrawn(draw, (1, 2, 3, 4, 4)))


def indirect_object() -> Task:
    """Two are named, one of them again, the other is the answer: a match finds the place of the name that is repeated,
    what is found there goes to the end, and turns the last head to the other place."""
    names, verbs = [f"n{i}" for i in range(5)], ("gave", "sent")
    neurons = [
        *(both(0, "repeated", f"again {i}", "position 4", {f"repeats {i}": 1.0}) for i in (1, 2)),
        *(lookup(1, "subject", [f"subject {i}"], {f"look at {3 - i}": 1.0}) for i in (1, 2)),
        *(lookup(2, "answer", [f"named {name}"], {f"say {name}": 1.0}) for name in names),
    ]
    finds = tuple((f"token {name}", (f"token {name}",), SHARP) for name in names)
    here = ("position 4", ("position 1", "position 2"), SHARP)
    heads = (
        ProgramHead(0, "the same name", ((ALWAYS, ("position 0",), 1.5 * SHARP), *finds, here),
                    {f"position {i}": f"again {i}" for i in (1, 2)}),
        match(1, "to the end", [("position 5", ["position 4"])], {f"repeats {i}": f"subject {i}" for i in (1, 2)}),
        match(2, "name mover", [(f"look at {i}", [f"position {i}"]) for i in (1, 2)],
              {f"token {name}": f"named {name}" for name in names}),
    )  # fmt: skip
    program = Program(("BOS", *names, *verbs, "to"), 6, tuple(neurons), heads)

    def solve(tokens: Tokens, put: Mapping[str, object]) -> Values:
        repeated = put.get("repeated", 1 if tokens[4] == tokens[1] else 2)
        subject = put.get("subject", repeated)
        answer = put.get("answer", tokens[2] if subject == 1 else tokens[1])
        return {"repeated": repeated, "subject": subject, "answer": answer}

    def draw(random: Random) -> Tokens:
        pair = random.sample(names, 2)
        return ("BOS", *pair, random.choice(verbs), random.choice(pair), "to")

    def change(random: Random, tokens: Tokens) -> Tokens:
        pair = tokens[1:3]
        return (*tokens[:4], pair[0] if tokens[4] == pair[1] else pair[1], "to")

    variables = (
        Variable("repeated", "middle", "repeated", lambda tokens: 4),
        Variable("subject", "middle", "subject", last(6)),
        Variable("answer", "answer", "answer", last(6)),
    )
    return Task("indirect-object", indirect_object.__doc__ or "", program, variables, solve, draw, change)
