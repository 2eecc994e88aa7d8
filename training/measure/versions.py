"""Which packages computed something."""

import platform
from importlib.metadata import version

_PACKAGES = ("torch", "timm", "numpy", "scikit-learn", "corolla")


def package_versions() -> dict[str, str]:
    """The version of Python, and of each package whose version can change a result."""
    return {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES}
