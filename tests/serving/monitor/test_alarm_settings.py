from pathlib import Path

import pytest

from petl_vit.errors import InvalidInput
from serving.monitor.alarm_settings import AlarmSettings, SettingsByRoute, settings

FILE = """
["digits/best"]
alpha = 0.001

["pacs/all"]
accuracy_margin = 0.1
"""


def test_a_route_overrides_what_holds_for_all() -> None:
    found = SettingsByRoute.parse(FILE, default=AlarmSettings(alpha=0.5, margin=0.02))

    assert found.of("another/route") == AlarmSettings(alpha=0.5, margin=0.02)
    assert found.of("digits/best") == AlarmSettings(alpha=0.001, margin=0.02)
    assert found.of("pacs/all") == AlarmSettings(alpha=0.5, margin=0.02, accuracy_margin=0.1)


def test_an_empty_file_says_nothing() -> None:
    assert SettingsByRoute.parse("") == SettingsByRoute()


@pytest.mark.parametrize("alpha", [0, -0.1, 1.5, float("nan"), "much"])
def test_an_alpha_that_no_alarm_can_keep_is_refused(alpha: object) -> None:
    with pytest.raises(InvalidInput, match=r"^alpha: .*; give a probability above 0, such as 0\.01"):
        settings({"alpha": alpha})


@pytest.mark.parametrize(
    ("text", "field", "words"),
    [
        ("alpha = 2", "f.toml", "alpha: it is not in the table of a route"),
        ('["a/b"]\nalpha = 0', 'f.toml: "a/b": alpha', "give a probability"),
        ('["a/b"]\nmargin = 1', 'f.toml: "a/b": margin', "default 0.01"),
        ('["a/b"]\nblock = 0', 'f.toml: "a/b": block', "default 1"),
        ('["a/b"]\naccuracy_margin = -0.1', 'f.toml: "a/b": accuracy_margin', "default 0.03"),
        ('["a/b"]\nlabels = "some"', 'f.toml: "a/b": labels', "'requested' or 'all'"),
        ('["a/b"]\nlabel_share = 0', 'f.toml: "a/b": label_share', "default 0.01"),
        ('["a/b"]\nalfa = 0.1', 'f.toml: "a/b": alfa', "did you mean alpha?"),
        ('["a/b"]\nzzz = 0.1', 'f.toml: "a/b": zzz', "one of alpha, margin"),
        ("alpha 0.1", "f.toml", "TOML"),
    ],
)
def test_a_file_that_cannot_be_is_refused_by_the_name_of_its_setting(
    text: str, field: str, words: str
) -> None:
    with pytest.raises(InvalidInput) as error:
        SettingsByRoute.parse(text, source="f.toml")
    assert error.value.field == field
    assert words in str(error.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"alarms: .*missing.toml cannot be read: no such file"):
        SettingsByRoute.read(tmp_path / "missing.toml")
    (tmp_path / "latin.toml").write_bytes(b"\xe9")
    with pytest.raises(InvalidInput, match=r"latin.toml cannot be read: it is not utf-8"):
        SettingsByRoute.read(tmp_path / "latin.toml")
