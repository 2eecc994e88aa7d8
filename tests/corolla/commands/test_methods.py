import click
import pytest

from corolla.commands.train import train
from petl_vit import summaries
from tests.corolla.shell import Shell


def test_the_methods_cost_on_vit_b_16_what_the_study_counted(empty: Shell) -> None:
    rows = empty.document("methods", "--backbone", "vit_base_patch16_224", "--json")
    counts = {row["name"]: row["parameters"] for row in rows}
    assert counts == {
        "linear": 0,
        "full": 85_798_656,
        "bitfit": 102_912,
        "layernorm": 38_400,
        "difffit": 140_544,
        "ssf": 205_824,
        "vpt_shallow": 38_400,  # 50 prompts
        "vpt_deep": 460_800,  # 50 prompts
        "houlsby": 313_536,  # rank 8
        "pfeiffer": 599_424,  # rank 32
        "adaptformer": 599_424,  # rank 32
        "repadapter": 239_808,  # rank 8
        "convpass": 327_552,  # rank 8
        "lora": 294_912,  # rank 8
        "dora": 322_560,  # rank 8
        "vera": 30_720,  # rank 256
        "ia3": 55_296,
        "fact_tt": 21_504,  # rank 8
        "fact_tk": 30_976,  # rank 16
        "vqt": 92_281,  # 10 queries
        "selective": 7_087_872,  # the last block
    }
    assert all(row.keys() >= {"name", "parameters", "edits", "foldable", "paper"} for row in rows)


def test_the_methods_of_a_stored_backbone_are_counted_on_it(shell: Shell) -> None:
    rows = shell.document("methods", "--backbone", "vit_tiny_patch16_224.random", "--json")
    assert {row["name"]: row["parameters"] for row in rows}["lora"] == 2 * 4 * 192 * 8


def test_the_methods_are_a_table_with_one_line_each(empty: Shell) -> None:
    code, out, err = empty("methods")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].split()[:4] == ["method", "parameters", "on", "vit_base_patch16_224"]
    assert len(out.splitlines()) == 1 + len(empty.document("methods", "--json"))


def test_a_native_size_of_a_hub_name_is_the_hubs(empty: Shell) -> None:
    name = "vit_base_patch16_clip_384.openai_ft_in12k_in1k"
    (full,) = (r for r in empty.document("methods", "--backbone", name, "--json") if r["name"] == "full")
    assert full["parameters"] == 85_799_424 + (24**2 - 14**2) * 768


@pytest.mark.parametrize("name", ["vit_bas_patch16_224", "resnet50"])
def test_a_backbone_that_is_no_plain_vit_is_refused(empty: Shell, name: str) -> None:
    assert name in empty.refused("methods", "--backbone", name)


@pytest.mark.parametrize("name", summaries.names())
def test_no_setting_of_a_method_hides_a_flag_that_every_method_has(name: str) -> None:
    command = train.get_command(click.Context(train), name)
    assert command is not None
    flags = [flag for parameter in command.params for flag in parameter.opts]
    assert len(flags) == len(set(flags))
