import time

import numpy as np

from steps.measure import Meter


def test_seconds_and_peak_memory():
    with Meter() as small:
        time.sleep(0.2)
    with Meter() as large:
        block = np.ones(300 * 2**20, dtype=np.uint8)
        time.sleep(0.4)
        del block
    assert 0.2 <= small.seconds < 60
    assert large.peak_mb - small.peak_mb > 200


def test_measures_even_when_the_stage_fails():
    meter = Meter()
    try:
        with meter:
            raise ValueError("stage")
    except ValueError:
        pass
    assert meter.peak_mb > 0
    assert not meter._sampler.is_alive()
