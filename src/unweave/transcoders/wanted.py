"""Which files of a folder are a dictionary's, by their names alone: on the hub, before a byte is fetched."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from ..errors import TranscoderError
from .layers import LAYER_FILES, layer_number


def foreign_files(names: list[str], pattern: str, folder: Path) -> list[str]:
    """The files of a dictionary without `config.yaml`, of all files of its folder, relative to it.

    Args:
        folder: what messages call the place.

    Raises:
        TranscoderError: none, or several for one layer.
    """
    if not pattern and "params_layer_0.safetensors" in names:
        return [name for name in names if fnmatchcase(name, "params_layer_*.safetensors") or name == "config.json"]
    layers = [folder / name for name in names if name.rpartition("/")[2] in LAYER_FILES and _fits(name, pattern)]
    found = {path.relative_to(folder).as_posix() for path in one_a_layer(layers, folder, pattern).values()}
    above = {parent for name in found for parent in PurePosixPath(name).parents}
    about = [
        name for name in names if name.endswith(("cfg.json", "config.json")) and PurePosixPath(name).parent in above
    ]
    return sorted({*found, *about})


def _fits(name: str, pattern: str) -> bool:
    """Whether a file lies in, or below, a folder of this pattern."""
    parts, wanted = name.split("/"), pattern.split("/") if pattern else []
    return len(parts) > len(wanted) and all(fnmatchcase(part, like) for part, like in zip(parts, wanted, strict=False))


def one_a_layer(paths: Iterable[Path], folder: Path, pattern: str) -> dict[int, Path]:
    """Layers' files by layer.

    Raises:
        TranscoderError: none, several for one layer, a layer without one, or a file that does not say its layer.
    """
    found: dict[int, Path] = {}
    for path in sorted(paths):
        number = layer_number(path, folder)
        if number is None:
            raise TranscoderError(
                f"{path.parent} does not say in its name which layer it is for; name it like 'layer_7' or "
                f"'layers.7.mlp'"
            )
        if number in found:
            raise TranscoderError(
                f"{folder} has several dictionaries for layer {number}: {found[number].parent.relative_to(folder)} "
                f"and {path.parent.relative_to(folder)}; "
                "choose with * in place of the layer, such as FOLDER/layer_*_width_16k_l0_small"
            )
        found[number] = path
    if not found:
        what = f" below it that fits {pattern!r}" if pattern else ""
        raise TranscoderError(
            f"{folder} has no config.yaml and no layers' files ({', '.join(LAYER_FILES)}){what}; is it a dictionary "
            f"folder?"
        )
    missing = next((number for number in range(len(found)) if number not in found), None)
    if missing is not None:
        raise TranscoderError(
            f"{folder} has dictionaries for {len(found)} layers, up to layer {max(found)}, but none for layer {missing}"
        )
    return found
