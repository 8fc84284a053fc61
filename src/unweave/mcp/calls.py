"""What each tool may be asked: checked before anything runs, and published as JSON Schema."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from ..attribution.question import Question
from ..base.choices import EDGE_THRESHOLD, NODE_THRESHOLD, Mode, PositionZero, Precision
from ..base.parsing import prompt_of, target_of
from ..errors import OptionError
from ..server.live import ChangeRequest, Count, Share, SteerRequest
from ..validation.yamlfile import worded

Text = Annotated[str, Field(min_length=1, max_length=1_000_000)]
Name = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$",
        description="Name for the files, without ending; only if the server was started with --out.",
    ),
]
Ids = Annotated[bool, Field(description="Prompts are lists of token ids, such as '1 504 3575'.")]
GraphFile = Annotated[str, Field(min_length=1, description="'graph_name' of an earlier trace, or a file's path.")]
Target = Annotated[str, Field(min_length=1, description="A token as text (' Paris') or #id.")]


class _Call(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class ExplainCall(_Call):
    """Arguments of `explain`."""

    prompt: Annotated[Text, Field(description="The text whose next token is to be explained.")]
    target: Target | None = None
    instead: Annotated[
        Text | None, Field(description="A prompt of as many tokens with another answer. Default: one is found.")
    ] = None
    groups: Annotated[int, Field(ge=1, le=100, description="At most so many groups.")] | None = None
    baseline: Literal["auto", "mean", "zero"] = "auto"
    ids: Ids = False
    save: Name | None = None


class TraceCall(_Call):
    """Arguments of `trace`."""

    prompt: Annotated[Text, Field(description="The text whose next token is to be explained.")]
    targets: Annotated[list[Target], Field(max_length=100, description="Default: the likely tokens.")] = []
    minus: Annotated[Target | None, Field(description="With one target: its logit minus this token's.")] = None
    position: int = Question.position
    max_logits: Count = Question.max_logits
    logit_mass: Share = Question.logit_mass
    max_features: Count | None = Question.max_features
    node_threshold: Share = NODE_THRESHOLD
    edge_threshold: Share = EDGE_THRESHOLD
    position_zero: PositionZero = Question.position_zero
    precision: Precision = Question.precision
    chat: Annotated[bool, Field(description="Put the prompt into the model's chat template.")] = False
    ids: Ids = False
    save: Name | None = None


class ChangeCall(ChangeRequest):
    """One change of `steer`."""

    model_config = ConfigDict(strict=True, extra="forbid")
    value: Annotated[FiniteFloat | None, Field(description="For all but ablate.")] = None  # pyright: ignore

    @model_validator(mode="after")
    def _has_value(self) -> "ChangeCall":
        if (self.value is None) != (self.action == "ablate"):
            raise ValueError("scale, set and add need a value, and ablate takes none")
        return self


class SteerCall(_Call):
    """Arguments of `steer`."""

    prompt: Annotated[Text | None, Field(description="Default: the graph's.")] = None
    graph: GraphFile | None = None
    ids: Ids = False
    changes: Annotated[
        list[ChangeCall],
        Field(max_length=10_000, description="Nodes are layer_index_position ('12_345_5'); with *: all positions."),
    ] = []
    swap_from: Annotated[Text | None, Field(description="Take the features of this prompt.")] = None
    swap_factor: FiniteFloat = 1.0
    mode: Mode = "frozen_attention"
    watch: Annotated[list[str], Field(max_length=10_000, description="Report these features.")] = []
    tokens: Annotated[list[Target], Field(max_length=1000, description="Report these tokens too.")] = []
    generate: Annotated[int, Field(ge=0, le=1000, description="Tokens to write, with and without changes.")] = 0
    temperature: Annotated[float, Field(ge=0, le=100)] = 0.0
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0

    def wanted(self) -> SteerRequest:
        """The same as the page asks it.

        Raises:
            PromptError, TargetError: a prompt or a token that is none.
        """
        asked = self.model_dump(exclude={"prompt", "graph", "ids", "changes", "swap_from", "tokens"})
        swap = None if self.swap_from is None else prompt_of(self.swap_from, self.ids)
        changes = [ChangeRequest(**change.model_dump(exclude_none=True)) for change in self.changes]
        return SteerRequest(**asked, changes=changes, swap_from=swap, tokens=[*map(target_of, self.tokens)])


class ValidateCall(_Call):
    """Arguments of `validate`."""

    graph: GraphFile | None = None
    claims: Annotated[Text | None, Field(description="Instead of a graph: the text of a YAML file of claims.")] = None
    ablations: Annotated[int, Field(ge=10, le=100_000, description="How many features to ablate.")] = 300
    pairs: Annotated[int, Field(ge=0, le=100_000)] = 40
    reach: Annotated[int, Field(ge=1, le=1000)] = 3
    disturbances: Annotated[int, Field(ge=0, le=10_000)] = 24
    control: bool = True
    neurons: bool = True
    seed: Annotated[int, Field(ge=0, lt=1 << 31)] = 0
    budget: Annotated[
        float | None, Field(gt=0, allow_inf_nan=False, description="Start no measurement after so many seconds.")
    ] = None
    save: Name | None = None


class SearchCall(_Call):
    """Arguments of `search_features`."""

    text: Annotated[str, Field(min_length=1, max_length=1000, description="A word or part of one, in any case.")]
    fields: list[Literal["label", "token", "promoted", "suppressed", "context"]] = []
    limit: Annotated[int, Field(ge=1, le=1000)] = 20


class ShowCall(_Call):
    """Arguments of `show_feature`."""

    feature: Annotated[str, Field(min_length=1, description="layer_index, such as 12_345; a position is ignored.")]
    contexts: Annotated[int, Field(ge=0, le=100, description="At most so many contexts.")] = 6


class ModelsCall(_Call):
    """Arguments of `models`: none."""


def checked(kind: type[BaseModel], arguments: Mapping[str, Any]) -> Any:
    """Arguments as what a tool takes.

    Raises:
        OptionError: one is missing, unknown, of the wrong type or out of range.
    """
    try:
        return kind.model_validate(dict(arguments))
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "string_pattern_mismatch":
            raise OptionError(
                f"{first['loc'][-1]}: {first['input'][:60]!r} cannot name a file; give letters, digits, '.', '_' and "
                f"'-', at most 100"
            ) from error
        known = ChangeCall if first["loc"][0] == "changes" and len(first["loc"]) > 1 else kind
        raise OptionError(worded(first, list(known.model_fields))) from error
