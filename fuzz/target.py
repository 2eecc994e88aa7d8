"""Runs one target under libFuzzer until it is stopped: `python -m fuzz.target NAME [libFuzzer's options]`.

`python -m fuzz` calls this. The packages below are instrumented, C code is not.
"""

import importlib
import sys

import atheris

INSTRUMENTED = ["corolla", "image_files", "model_store", "petl_vit", "serving", "PIL"]


def main() -> None:
    """Never returns: libFuzzer ends the process."""
    import torch  # noqa: F401 before the hook, which would look at each of its modules

    with atheris.instrument_imports(include=INSTRUMENTED):
        target = importlib.import_module(f"fuzz.targets.{sys.argv[1]}")
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
