import pytest

from serving.client.health import main
from tests.serving.world import Running


def test_the_health_command_exits_0_when_the_server_serves(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([running.address]) == 0
    assert main(["127.0.0.1:1"]) == 1
    assert main(["--help"]) == main([running.address, "more"]) == 2
    assert "usage" in capsys.readouterr().err
