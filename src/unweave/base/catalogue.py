"""Known models with dictionaries for them, by short names."""

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from ..errors import FileError, TranscoderError

DATA = Path(__file__).parents[1] / "data"

SHIPPED_MODELS = {"organism": DATA / "organism" / "model"}
"""Models inside the package, by name; beside each folder `held-out/` with text, and `prompts.txt`, to judge
dictionaries on."""
SHIPPED = {"organism": DATA / "organism" / "clt", "organism-plt": DATA / "organism" / "plt"}
"""Dictionaries inside the package, by name."""
PACKAGED = {"smollm2": ("unweave_smollm2", "dictionary")}
"""Dictionaries in data packages of their own, by name: the module and the folder in it."""
FEATURE_PAGES = ("unweave_smollm2_features", "pages")
"""Where the feature pages of the default model's dictionary are: the module of a data package and the folder in it."""
NEURON_PAGES = ("unweave_smollm2_neurons", "pages")
"""The same for the default model's neurons, of which pages can also be built."""
INSTALL = "pip install 'unweave[smollm2]' (or make, in a clone)"
"""What installs the data packages."""


class CataloguePair(NamedTuple):
    """A model and a dictionary made for it, as names on the hub."""

    name: str
    model: str
    dictionary: str
    parameters: float
    """Of the model, in billions."""
    layers: int
    features: int | None
    """A layer; None: not known here, or not the same everywhere."""
    kind: str
    gigabytes: float | None
    """About what the dictionary's files take, from their shapes or as listed on the hub; None: not known here."""

    @property
    def on_hub(self) -> bool:
        """Whether model and dictionary are repositories of the hub."""
        return "/" in self.dictionary


def _gigabytes(layers: int, features: int, d: int, width: int, slots: float = 1.0) -> float:
    """Encoder and `slots` decoders a feature, `width` bytes a number."""
    return layers * features * d * (1 + slots) * width / 1e9


def _gemma_3(size: str, parameters: float, layers: int, d: int) -> tuple[CataloguePair, ...]:
    place, gigabytes = "transcoder_all/width_16k_l0_small_affine", _gigabytes(layers, 16384, d, 4)
    return tuple(
        CataloguePair(
            f"gemma-3-{size}{mark}",
            f"google/gemma-3-{size}{tail}",
            f"mwhanna/gemma-scope-2-{size}-{kind}/{place}",
            parameters,
            layers,
            16384,
            "skip",
            gigabytes,
        )
        for mark, tail, kind in (("", "" if size == "270m" else "-pt", "pt"), ("-it", "-it", "it"))
    )


PAIRS: dict[str, CataloguePair] = {
    pair.name: pair
    for pair in (
        CataloguePair("smollm2", "smollm2", "smollm2", 0.135, 30, None, "skip", 0.08),
        CataloguePair("organism", "organism", "organism", 0.0034, 6, 2048, "cross-layer", 0.011),
        CataloguePair("organism-plt", "organism", "organism-plt", 0.0034, 6, 2048, "per-layer", 0.005),
        CataloguePair(
            "gemma",
            "google/gemma-2-2b",
            "mntss/gemma-scope-transcoders",
            2.6,
            26,
            16384,
            "per-layer",
            _gigabytes(26, 16384, 2304, 4),
        ),
        CataloguePair(
            "gemma-clt",
            "google/gemma-2-2b",
            "mntss/clt-gemma-2-2b-426k",
            2.6,
            26,
            16384,
            "cross-layer",
            _gigabytes(26, 16384, 2304, 2, 13.5),
        ),
        CataloguePair(
            "gemma-clt-2.5m",
            "google/gemma-2-2b",
            "mntss/clt-gemma-2-2b-2.5M",
            2.6,
            26,
            98304,
            "cross-layer",
            _gigabytes(26, 98304, 2304, 2, 13.5),
        ),
        *_gemma_3("270m", 0.27, 18, 640),
        *_gemma_3("1b", 1.0, 26, 1152),
        *_gemma_3("4b", 4.3, 34, 2560),
        *_gemma_3("12b", 12.2, 48, 3840),
        *_gemma_3("27b", 27.4, 62, 5376),
        CataloguePair(
            "gemma-3-1b-clt",
            "google/gemma-3-1b-pt",
            "mwhanna/gemma-scope-2-1b-pt/clt/width_262k_l0_medium_affine",
            1.0,
            26,
            None,
            "cross-layer, skip",
            30.0,
        ),
        CataloguePair(
            "gemma-3-270m-clt",
            "google/gemma-3-270m",
            "mwhanna/gemma-scope-2-270m-pt/clt/width_262k_l0_medium_affine",
            0.27,
            18,
            None,
            "cross-layer, skip",
            None,
        ),
        CataloguePair(
            "llama",
            "meta-llama/Llama-3.2-1B",
            "mntss/transcoder-Llama-3.2-1B",
            1.2,
            16,
            131072,
            "skip",
            32.0,
        ),
        CataloguePair(
            "llama-clt",
            "meta-llama/Llama-3.2-1B",
            "mntss/clt-llama-3.2-1b-524k",
            1.2,
            16,
            32768,
            "cross-layer",
            _gigabytes(16, 32768, 2048, 2, 8.5),
        ),
        CataloguePair(
            "llama-3.1-8b",
            "meta-llama/Llama-3.1-8B-Instruct",
            "facebook/crv-8b-instruct-transcoders",
            8.0,
            32,
            None,
            "per-layer, TopK",
            None,
        ),
        CataloguePair(
            "qwen3-0.6b", "Qwen/Qwen3-0.6B", "mwhanna/qwen3-0.6b-transcoders-lowl0", 0.6, 28, None, "per-layer", None
        ),
        CataloguePair(
            "qwen3-1.7b", "Qwen/Qwen3-1.7B", "mwhanna/qwen3-1.7b-transcoders-lowl0", 1.7, 28, None, "per-layer", None
        ),
        CataloguePair(
            "qwen3-0.6b-clt",
            "Qwen/Qwen3-0.6B-Base",
            "bluelightai/clt-qwen3-0.6b-base-20k",
            0.6,
            28,
            20480,
            "cross-layer",
            46.0,
        ),
        CataloguePair(
            "qwen3-1.7b-clt",
            "Qwen/Qwen3-1.7B-Base",
            "bluelightai/clt-qwen3-1.7b-base-20k",
            1.7,
            28,
            20480,
            "cross-layer",
            None,
        ),
        CataloguePair(
            "qwen3-4b",
            "Qwen/Qwen3-4B",
            "mwhanna/qwen3-4b-transcoders",
            4.0,
            36,
            163840,
            "per-layer",
            _gigabytes(36, 163840, 2560, 2),
        ),
        CataloguePair(
            "qwen3-8b",
            "Qwen/Qwen3-8B",
            "mwhanna/qwen3-8b-transcoders",
            8.2,
            36,
            163840,
            "per-layer",
            _gigabytes(36, 163840, 4096, 2),
        ),
        CataloguePair(
            "qwen3-14b",
            "Qwen/Qwen3-14B",
            "mwhanna/qwen3-14b-transcoders-lowl0",
            14.8,
            40,
            163840,
            "per-layer",
            _gigabytes(40, 163840, 5120, 2),
        ),
        CataloguePair(
            "gpt-oss",
            "openai/gpt-oss-20b",
            "mntss/clt-131k",
            20.9,
            24,
            131072,
            "cross-layer",
            _gigabytes(24, 131072, 2880, 2, 12.5),
        ),
        CataloguePair(
            "smollm2-base",
            "HuggingFaceTB/SmolLM2-135M",
            "EleutherAI/skip-transcoder-SmolLM2-135M-128x",
            0.135,
            30,
            73728,
            "skip, TopK",
            _gigabytes(30, 73728, 576, 4),
        ),
        CataloguePair(
            "smollm2-base-clt",
            "HuggingFaceTB/SmolLM2-135M",
            "nev/SmolLM2-CLT-135M-73k-k32",
            0.135,
            30,
            None,
            "cross-layer, TopK",
            None,
        ),
    )
}
"""All sets that circuit-tracer lists, and some of others."""
SOURCE_SETS = {
    "mntss/gemma-scope-transcoders": "gemmascope-transcoder-16k",
    "mwhanna/qwen3-4b-transcoders": "transcoder-hp",
}
"""What Neuronpedia calls dictionaries whose features it shows."""


def viewer_names(model: str, dictionary: str) -> tuple[str, str | None]:
    """What Neuronpedia calls a model, and the set of a dictionary's features there (None: none that is known).

    >>> viewer_names("gemma", "gemma")
    ('gemma-2-2b', 'gemmascope-transcoder-16k')
    >>> viewer_names("Qwen/Qwen3-8B@main", "neurons")
    ('qwen3-8b', None)
    """
    name = PAIRS[model].model if model in PAIRS else model
    repository = PAIRS[dictionary].dictionary if dictionary in PAIRS else dictionary
    last = name.partition("@")[0].rstrip("/").rpartition("/")[2]
    on_hub = name.count("/") == 1 and not name.startswith(("/", ".", "~"))
    return last.lower() if on_hub else name, SOURCE_SETS.get(repository.partition("@")[0])


def shipped_dictionary(name: str) -> Path | None:
    """The folder of a dictionary that is installed, by its name; None: no dictionary of ours. These names come before
    folders of the same name.

    Raises:
        TranscoderError: its data package is not installed.
    """
    if name not in PACKAGED:
        return SHIPPED.get(name)
    folder = _installed(*PACKAGED[name])
    if folder is None:
        raise TranscoderError(f"the dictionary {name!r} is not installed; run: {INSTALL}")
    return folder


def default_feature_pages() -> Path:
    """The folder with feature pages of the default model's dictionary.

    Raises:
        FileError: their data package is not installed.
    """
    folder = _installed(*FEATURE_PAGES)
    if folder is None:
        raise FileError(f"the feature pages of smollm2 are not installed; run: {INSTALL}")
    return folder


def default_neuron_pages() -> Path:
    """The folder with pages of the default model's neurons.

    Raises:
        FileError: they are not installed.
    """
    folder = _installed(*NEURON_PAGES)
    if folder is None:
        raise FileError(
            "no pages of smollm2's neurons are installed; build them (unweave features build --text TEXT --neurons "
            "FOLDER), and give --features FOLDER"
        )
    return folder


def neuron_pages_for(model: str) -> bool:
    """Whether pages of a model's neurons ship and are installed."""
    return model == "smollm2" and _installed(*NEURON_PAGES) is not None


def _installed(module: str, folder: str) -> Path | None:
    """A folder of an installed data package, found without importing it."""
    spec = find_spec(module)
    places = [Path(place) / folder for place in (spec.submodule_search_locations or ())] if spec else []
    return next((place for place in places if place.is_dir()), None)


def shipped_beside(model: str) -> Path | None:
    """Where text and prompts of a model inside the package are; None for any other model."""
    name = PAIRS[model].model if model in PAIRS else model
    return SHIPPED_MODELS[name].parent if name in SHIPPED_MODELS else None
