"""Packages that come with an extra of ours."""

from importlib.util import find_spec

from ..errors import MissingPackage


def require(package: str, extra: str, what: str) -> None:
    """Refuse, before any work is done, what needs a package that is not installed.

    >>> require("numpy", "plots", "figures")

    Raises:
        MissingPackage: it is not installed.
    """
    if find_spec(package) is None:
        raise MissingPackage(f"{what} need the package {package}; run: pip install 'unweave[{extra}]'")


def require_figures() -> None:
    """`require` what draws figures.

    Raises:
        MissingPackage: matplotlib is not installed.
    """
    require("matplotlib", "plots", "figures")
