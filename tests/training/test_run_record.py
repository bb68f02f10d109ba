import copy

import pytest

from utils.runtime.errors import UsageError
from utils.training import run_record

FRESH = {
    "options": {
        "instance_data_dir": "train",
        "pretrained_model_name_or_path": "sd",
        "clients_num": 1,
        "total_round": 1,
        "lr_scheduler": "constant",
        "max_train_steps": 4,
    },
    "holdout": [],
    "folder_classes": {},
    "data": {"fingerprint": "names", "content": "pictures"},
    "model": {"unet": "beginnings", "unet_content": "all"},
    "captions": "c",
    "weights": "w",
    "processes": 1,
    "steps": 4,
}


def changed(group, name, value):
    record = copy.deepcopy(FRESH)
    if value is None:
        del record[group][name]
    else:
        record[group][name] = value
    return record


@pytest.mark.parametrize(
    ("group", "name", "message"),
    [
        ("data", "content", "--instance_data_dir='train': .* other images"),
        ("data", "fingerprint", "--instance_data_dir='train': .* other images"),
        ("model", "unet_content", "--pretrained_model_name_or_path='sd': .* another model"),
        ("model", "unet", "--pretrained_model_name_or_path='sd': .* another model"),
    ],
)
def test_a_run_goes_on_only_with_the_contents_it_was_made_of(group, name, message):
    run_record.require_same_inputs(FRESH, FRESH)
    with pytest.raises(UsageError, match=message):
        run_record.require_same_inputs(changed(group, name, "other"), FRESH)


@pytest.mark.parametrize(("group", "name"), [("data", "content"), ("model", "unet_content")])
def test_a_run_of_an_earlier_version_goes_on_by_what_it_recorded(group, name):
    run_record.require_same_inputs(changed(group, name, None), FRESH)
