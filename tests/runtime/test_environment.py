import json

from utils.runtime import environment


def test_the_environment_names_versions_and_machine():
    found = environment.environment()
    assert {"torch", "diffusers"} <= set(found["versions"])
    assert json.dumps(found)
