import json
import math

import numpy as np
import pytest

from benchmarks import alarms
from benchmarks.alarm_streams import Cusum, EProcess, Reference, ZTest, images_to_alarm, looks, open_to
from petl_vit.evidence import Candidate, Evidence


@pytest.mark.benchmarks
def test_it_ends_with_false_alarms_and_images_to_detection(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = alarms.Size(streams=20, images=2000, shifted=5, quiet=(0, 1000))
    monkeypatch.setattr(alarms, "QUICK", small)
    monkeypatch.setattr(alarms, "_LONGEST", 6000)

    alarms.main(["--quick", "--alpha", "0.05"])

    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["false_alarms_within_bound"] is True
    assert figures["streams"] == 20
    assert figures["e_process_quiet_0_plus_20"] <= figures["e_process_quiet_1000_plus_10"] <= 2000
    assert figures["z_plus_20"] == 1000
    assert figures["labels_reference_10000_plus_20"] <= figures["labels_reference_360_plus_20"] <= 1000
    assert figures["e_process_quiet_0_plus_1"] is None


def test_streams_have_the_evidence_that_one_alone_has() -> None:
    random, reference = np.random.default_rng(0), Reference(counts=np.array([20, 28]), images=500)
    against = open_to(reference, "override", margin=0.01, most=7.0)
    both, each = EProcess(against, block=2), [Evidence.start(*one, block=2) for one in against]
    for n in looks(1000, step=100, fine=50, fine_until=200):
        total = random.binomial(n, [0.05, 0.1]).astype(float)
        found = both.step(n, total)
        each = [one.after(n, float(sum_)) for one, sum_ in zip(each, total, strict=True)]
        assert found / math.log(10) == pytest.approx([one.e_value for one in each])


def test_a_z_test_speaks_once_a_window_and_a_cumulative_sum_never_falls_below_zero() -> None:
    reference = Reference(counts=np.array([50]), images=1000)
    test, sum_ = ZTest(reference), Cusum(reference, points=5)
    said = [float(test.step(500, np.array([total]))[0]) for total in (25.0, 75.0, 25.0, 25.0)]
    assert [math.isinf(z) for z in said] == [True, False, True, False]
    assert said[1] == pytest.approx(0.05 / math.sqrt(0.075 * 0.925 * 2 / 1000))
    assert said[3] == pytest.approx(0)
    assert sum_.step(100, np.array([0.0]))[0] == 0
    assert sum_.step(100, np.array([20.0]))[0] > 0


def test_images_are_counted_until_a_rule_reaches_its_limit() -> None:
    rule = EProcess([(Candidate(rate=0.1),)] * 3)
    needed = images_to_alarm(rule, 2.0, 1.0, looks(100, step=5, fine=5), np.random.default_rng(0), 3)
    assert (needed == needed[0]).all()
    assert 1 <= needed[0] <= 10
    never = images_to_alarm(rule, 1e9, 0.0, looks(100, step=50, fine=50), np.random.default_rng(0), 3)
    assert np.isinf(never).all()
