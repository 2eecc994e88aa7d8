"""What `corolla monitor` refuses before it reads anything: settings of alarms that cannot be."""

from pathlib import Path

import click
import pytest

from corolla.commands.monitor import monitor
from petl_vit.errors import InvalidInput
from tests.corolla.runner import printed

NOBODY = ("--server-metrics", "http://127.0.0.1:1", "--once")


@pytest.mark.parametrize("alpha", ["0", "1.5", "-1", "nan"])
def test_an_alpha_that_no_alarm_can_keep_is_refused_by_its_flag(alpha: str, tmp_path: Path) -> None:
    with pytest.raises((click.BadParameter, InvalidInput), match=r"alpha|range"):
        printed(monitor, *NOBODY, "--alpha", alpha, store=tmp_path)


def test_a_file_of_alarms_is_refused_by_route_and_setting(tmp_path: Path) -> None:
    file = tmp_path / "alarms.toml"
    file.write_text('["digits/best"]\nalpha = 0\n')
    with pytest.raises(InvalidInput, match=r'"digits/best": alpha: .*give a probability above 0'):
        printed(monitor, *NOBODY, "--alarms", str(file), store=tmp_path)


def test_a_file_of_alarms_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    for file, reason in ((tmp_path / "none.toml", "no such file"), (binary, "not utf-8")):
        with pytest.raises(InvalidInput, match=f"cannot be read: .*{reason}") as error:
            printed(monitor, *NOBODY, "--alarms", str(file), store=tmp_path)
        assert error.value.field == "alarms"
