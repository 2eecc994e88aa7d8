"""What `corolla train` and what measures say of the images they are given."""

from pathlib import Path

import corolla
from tests.corolla.shell import Shell
from tests.training.data.files import folder


def table(root: Path) -> str:
    files = {f"{number}.png": 10 * number for number in range(16)}
    folder(root, dict(files))
    rows = "".join(f"{name},{'dark' if value < 80 else 'light'},x\n" for name, value in files.items())
    (root / "labels.csv").write_text("image,tone,note\n" + rows)
    return str(root / "labels.csv")


def test_a_table_is_trained_on_and_measured_by_its_columns(shell: Shell) -> None:
    source = table(shell.folder / "photos")
    assert "name the one that is meant with --label-column" in shell.refused(
        "train", "bitfit", "--data", source, "--task", "tones"
    )
    column = ("--label-column", "tone", "--device", "cpu")
    code, out, err = shell(
        "train", "bitfit", "--data", source, "--task", "tones", *column, "--shots", "4", "--epochs", "1",
        "--transform", "cifar", "--resize", "squash-crop", "--balance", "classes",
        "--measure-precision", "fp32",
    )  # fmt: skip
    assert code == 0, err
    assert "fitted to the 8 images of this --shots" in err
    assert out.startswith("tones/bitfit:1 is registered")
    shown = shell.document("adapters", "show", "bitfit", "--task", "tones", "--json")["training"]
    assert (shown["augment"], shown["balance"], shown["shots"]) == ("resized-crop-flip", "classes", 4)
    spec = shell.document("tasks", "show", "tones", "--json")
    assert '"resize": "squash-crop"' in str(spec).replace("'", '"')
    measured = shell.document(
        "evaluate", "--task", "tones", "--route", "bitfit", "--data", source, *column, "--precision", "fp32",
        "--json",
    )  # fmt: skip
    assert "16" in str(measured)


def test_a_domain_without_a_class_is_measured_and_one_with_another_is_refused(trained: Shell) -> None:
    few = folder(trained.folder / "few", {"3/1.png": 30, "4/1.png": 40})
    of_digits = ("evaluate", "--task", "digits", "--route", "base", "--device", "cpu", "--precision", "fp32")
    code, _, err = trained(*of_digits, "--data", few)
    assert code == 0, err
    assert f"{few} lacks 8 of the 10 classes: '0', '1', '2', '5', '6', '7', '8', '9'" in err
    other = folder(trained.folder / "other", {"3/1.png": 30, "cat/1.png": 40})
    said = trained.refused(*of_digits, "--data", other)
    assert "classes that the task does not have: cat" in said
    assert "rename those that mean one of them" in said


def test_a_program_trains_on_a_table(shell: Shell) -> None:
    source = table(shell.folder / "photos")
    with corolla.Store(shell.folder / "store", device="cpu", precision="fp32") as store:
        manifest = store.train(
            "bitfit", data=source, task="tones", label_column="tone", shots=4, epochs=1,
            transform="vtab", augment="flip", balance="classes", runs=shell.folder / "runs",
        )  # fmt: skip
        assert (manifest.training["augment"], manifest.training["images"]) == ("flip", 8)
        (task,) = store.tasks()
        assert task.spec.preprocess.mean == (0.0, 0.0, 0.0)
