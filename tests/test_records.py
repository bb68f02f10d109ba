import dataclasses

import pytest

from utils import records


def test_records_do_not_change():
    job = records.ImageJob(0, 1, "a", "b")
    assert job.source_image is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        job.prompt = "c"
    assert dataclasses.replace(job, prompt="c").prompt == "c"
