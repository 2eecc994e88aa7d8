import numpy as np

from petl_vit.confidence import BINS, EDGES, bin_of, bins_of, cumulative
from serving.metrics.definitions import DEFINITIONS


def test_the_edges_are_those_of_the_servers_histogram() -> None:
    (histogram,) = [d for d in DEFINITIONS if d.name == "corolla_prediction_confidence_ratio"]
    assert histogram.buckets == EDGES
    assert list(EDGES) == sorted(set(EDGES))
    assert EDGES[-1] == 1


def test_bins_are_half_open_but_for_the_last() -> None:
    confidences = [0.0, 0.0999, 0.1, 0.5, 0.8999, 0.9, 1.0]
    assert (
        [bin_of(c) for c in confidences] == [0, 0, 1, 5, 8, 9, 9] == bins_of(np.array(confidences)).tolist()
    )
    assert max(bins_of(np.linspace(0, 1, 101))) == BINS - 1


def test_a_share_counts_what_lies_on_its_edge() -> None:
    shares = dict(zip(EDGES, cumulative(np.array([0.05, 0.1, 0.3, 1.0])).tolist(), strict=True))
    assert (shares[0.1], shares[0.2], shares[0.3], shares[0.999], shares[1.0]) == (0.5, 0.5, 0.75, 0.75, 1.0)
