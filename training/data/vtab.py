"""VTAB-1K as it is published: a folder for each of 19 tasks, with `images/` and lists of paths and labels.

    cifar/images/train800/000000.jpg, ...
    cifar/train800.txt, val200.txt, train800val200.txt, test.txt    lines such as `images/test/000007.jpg 49`

A search trains on train800 and validates on val200; its winner trains on both and is measured on test.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from image_files.left_out import LeftOut
from model_store.names import class_name, printable, text_of
from petl_vit.errors import InvalidInput
from training.data.listed import Listing, read_file
from training.data.reading import Reading
from training.data.records import INSIDE, Dataset, listed
from training.data.source_parts import JOIN, SourceParts, by_usual_names

TASKS = {
    "caltech101": (102, 6_084),
    "cifar": (100, 10_000),
    "dtd": (47, 1_880),
    "oxford_flowers102": (102, 6_149),
    "oxford_iiit_pet": (37, 3_669),
    "svhn": (10, 26_032),
    "sun397": (397, 21_750),
    "patch_camelyon": (2, 32_768),
    "eurosat": (10, 5_400),
    "resisc45": (45, 6_300),
    "diabetic_retinopathy": (5, 42_670),
    "clevr_count": (8, 15_000),
    "clevr_dist": (6, 15_000),
    "dmlab": (6, 22_735),
    "kitti": (4, 711),
    "dsprites_loc": (16, 73_728),
    "dsprites_ori": (16, 73_728),
    "smallnorb_azi": (18, 12_150),
    "smallnorb_ele": (9, 12_150),
}
"""The tasks by the names of their folders: how many classes and test images each has."""

_SIZES = {"train800": 800, "val200": 200, "train800val200": 1000}
_LISTS = (*_SIZES, "test")
_ALSO = {
    "caltech": "caltech101",
    "cifar100": "cifar",
    "flowers102": "oxford_flowers102",
    "oxford_flowers": "oxford_flowers102",
    "oxford_pet": "oxford_iiit_pet",
    "pets": "oxford_iiit_pet",
    "resisc": "resisc45",
    "retinopathy": "diabetic_retinopathy",
}
_CLASSES = "classes.txt"
_TWICE = "listed twice"
_SHOWN = 8


def is_task(folder: str) -> bool:
    """Whether a folder is laid out as a task of VTAB-1K."""
    return any(os.path.isfile(os.path.join(folder, f"{name}.txt")) for name in _SIZES)


def refuse_all_tasks(folder: str, field: str) -> None:
    """Refuse the folder that the tasks are in, where one of them has to be named.

    Raises:
        InvalidInput: It is that folder.
    """
    try:
        names = os.listdir(folder)
    except OSError:  # whoever reads the folder says why it cannot be listed
        return
    tasks = sorted(name for name in names if is_task(os.path.join(folder, name)))
    if tasks:
        raise InvalidInput(
            f"{folder} holds the tasks {listed(tasks)} of VTAB-1K",
            field=field,
            remedy=f"name one, as in {Path(folder, tasks[0]).as_posix()}",
        )


class VtabTask:
    """The lists of one task."""

    def __init__(self, folder: str, field: str, reading: Reading) -> None:
        self._root, self._field, self._reading = Path(folder), field, reading
        self.origin = folder.rstrip("/")
        self.names = tuple(name for name in _LISTS if (self._root / f"{name}.txt").is_file())
        name = self._root.resolve().name.lower().replace("-", "_").removeprefix("vtab_")
        self._task = _ALSO.get(name, name)

    def parts(self) -> SourceParts | None:
        known = {name: f"{self.origin}{INSIDE}{name}" for name in self.names}
        both = f"{self.origin}{INSIDE}train800{JOIN}val200"
        training = known.get("train800val200") or (both if "val200" in known else known.get("train800"))
        if training is None:
            return by_usual_names(self.origin, self.names)
        heldout = known.get("test")
        tuning = {"train800", "val200"} <= known.keys()
        return SourceParts(
            names=self.names,
            training=training,
            heldout=heldout,
            tested=heldout or training,
            tuning=(known["train800"], known["val200"]) if tuning else None,
            final=training,
        )

    def dataset(self, names: Sequence[str]) -> Dataset:
        lines = {name: self._lines(name) for name in self.names}
        classes = self._classes(lines)
        left_out, labels = LeftOut(), dict[str, int]()
        for name in names:
            self._note_size(name, len(lines[name]))
            for number, (path, label) in enumerate(lines[name], start=1):
                if labels.setdefault(path, label) != label:
                    raise InvalidInput(
                        f"{name}.txt of {self.origin} gives {path} the label {label} in line {number}, "
                        f"and {labels[path]} before",
                        field=self._field,
                        remedy="correct the list",
                    )
            for _ in range(len(lines[name]) - len({path for path, _ in lines[name]})):
                left_out.add(_TWICE, f"{name}.txt")
        find = self._finder(next(iter(labels)))
        listing = Listing(
            origin=f"{self.origin}{INSIDE}{JOIN.join(names)}",
            classes=classes,
            labels=labels,
            read=lambda path: read_file(find(path), self._field),
            left_out=left_out,
            absent=True,
        )
        return listing.dataset(self._field, self._reading)

    def _lines(self, name: str) -> list[tuple[str, int]]:
        """The paths and labels of a list."""
        file = self._root / f"{name}.txt"
        try:
            text = text_of(file.read_bytes())
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"{file} cannot be read ({error})", field=self._field) from error
        found = []
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip():
                continue
            path, _, label = line.strip().rpartition(" ")
            if not path or not (label.isascii() and label.isdigit()):
                raise InvalidInput(
                    f"line {number} of {file} is {printable(line)[:80]!r}",
                    field=self._field,
                    remedy="each line is a path, a space and a label, as in images/test/000000.jpg 3",
                )
            found.append((path.strip().replace("\\", "/").removeprefix("./"), int(label)))
        if not found:
            raise InvalidInput(f"{file} is empty", field=self._field, remedy="get the set again")
        return found

    def _classes(self, lines: dict[str, list[tuple[str, int]]]) -> tuple[str, ...]:
        """The names of the classes: those of classes.txt, else `class 0` and so on.

        Raises:
            InvalidInput: Their number is not that of the task.
        """
        highest = {name: max(label for _, label in of_list) for name, of_list in lines.items()}
        count = max(highest.values()) + 1
        if self._task in TASKS:
            expected = TASKS[self._task][0]
            if count > expected or (count < expected and "test" in lines):
                raise InvalidInput(
                    f"the labels of {self.origin} go from 0 to {count - 1}, and {self._task} of VTAB-1K has "
                    f"{expected} classes, 0 to {expected - 1}",
                    field=self._field,
                    remedy="get the set again, or rename the folder if it is another set",
                )
            count = expected
        else:
            self._reading.reporter.note(
                f"{self.origin} is named like no task of VTAB-1K ({', '.join(TASKS)}), so it has the {count} "
                "classes of its labels"
            )
        file = self._root / _CLASSES
        if not file.is_file():
            return tuple(f"class {label}" for label in range(count))
        names = tuple(class_name(line) for line in text_of(file.read_bytes()).splitlines() if line.strip())
        if len(set(names)) != count or len(names) != count:
            raise InvalidInput(
                f"{file} has {len(set(names))} different names for {count} classes",
                field=self._field,
                remedy="give one name a line, in order of the labels, or remove the file",
            )
        return names

    def _note_size(self, name: str, found: int) -> None:
        """Tells where a list is not as long as it was published."""
        expected = _SIZES.get(name) or TASKS.get(self._task, (0, found))[1]
        if found != expected:
            self._reading.reporter.note(
                f"{name}.txt of {self.origin} lists {found:,} images; as published it lists {expected:,}"
            )

    def _finder(self, path: str) -> Callable[[str], Path]:
        """Where the paths of the lists start: in the folder, in its `images`, or in the folder above."""
        for start in (self._root, self._root / "images", self._root.parent):
            if (start / path).is_file():
                return lambda path: start / path
        return lambda path: self._root / path
