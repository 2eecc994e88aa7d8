"""What kind of adapter a path holds, by what is in it rather than by its name."""

import zipfile
from pathlib import Path
from typing import Literal, NamedTuple

from model_store.format.zips import UNREADABLE
from model_store.interchange import petl_vision
from model_store.interchange.peft_names import CONFIG, PICKLED, WEIGHTS
from model_store.sources import checkpoint, hub_folder
from petl_vit.errors import InvalidInput, NotFound

Kind = Literal["archive", "timm", "peft", "petl-vision"]
KINDS: tuple[Kind, ...] = ("archive", "timm", "peft", "petl-vision")


class Detected(NamedTuple):
    """A kind, and the path that its reader takes."""

    kind: Kind
    path: Path


def detect(path: Path) -> Detected:
    """The kind of what lies at a path.

    Raises:
        NotFound: Nothing does.
        InvalidInput: It is of no kind that can be imported; says what it has.
    """
    if not path.exists():
        raise NotFound(f"{path} does not exist", field="path", remedy="check the path")
    if path.is_dir():
        return _of_folder(path)
    if path.name in (CONFIG, WEIGHTS, PICKLED) and (path.parent / CONFIG).is_file():
        return Detected("peft", path.parent)
    if zip_holds(path, "corolla.json"):
        return Detected("archive", path)
    names = checkpoint.all_tensors(path).keys()
    if petl_vision.is_one(names):
        return Detected("petl-vision", path)
    bare = [name for name in names if ".lora_A" in name]
    if bare:
        raise InvalidInput(
            f"it holds LoRA matrices ({bare[0][:80]}) without a config, which says their scaling",
            field=path.name,
            remedy=f"put it into a folder as {WEIGHTS} beside its {CONFIG}, and give the folder",
        )
    return Detected("timm", path)


def _of_folder(path: Path) -> Detected:
    if (path / CONFIG).is_file():
        return Detected("peft", path)
    named = sorted(config.parent for config in path.glob(f"*/{CONFIG}"))
    if len(named) == 1:
        return Detected("peft", named[0])
    if named:
        raise InvalidInput(
            f"it holds {len(named)} folders of PEFT",
            field="path",
            remedy=f"import each by itself: {', '.join(str(folder) for folder in named[:3])}",
        )
    if any((path / name).is_file() for name in hub_folder.WEIGHTS):
        return Detected("timm", path)
    shown = ", ".join(sorted(entry.name for entry in path.iterdir())[:5]) or "nothing"
    raise InvalidInput(
        f"it holds neither an {CONFIG} of PEFT nor the weights of a model: it has {shown}",
        field="path",
        remedy="give a folder of PEFT, a checkpoint, or a file of `corolla adapters export`",
    )


def zip_holds(path: Path, name: str) -> bool:
    """Whether a file is a zip with a file of that name, in any of its folders."""
    try:
        with zipfile.ZipFile(path) as file:
            return any(Path(member).name == name for member in file.namelist())
    except UNREADABLE:
        return False  # no zip, or a damaged one, which its reader refuses


def check(path: Path, kind: str) -> None:
    """Refuses what is plainly of another kind.

    Raises:
        InvalidInput: It is; names the kind.
    """
    if (path / CONFIG).is_file():
        what, kinds = "a folder of PEFT", ["peft"]
    elif zip_holds(path, "corolla.json"):
        what, kinds = "an archive of corolla", ["archive"]
    elif zip_holds(path, "data.pkl") or (path.is_file() and path.suffix == ".safetensors"):
        what, kinds = "a checkpoint", ["timm", "petl-vision", "peft"]  # peft says which folder is meant
    else:
        return
    if kind not in kinds:
        remedy = f"write --format {kinds[0]}, or leave it out"
        raise InvalidInput(f"{path} is {what}", field="format", remedy=remedy)
