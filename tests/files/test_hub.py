import importlib
import importlib.util

import pytest

from utils.files import hub
from utils.runtime.errors import TrainingError, UsageError


def test_a_login_is_needed_before_anything_is_trained(monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert hub.require_token("hf_given", "me/model") == "hf_given"
    with pytest.raises(UsageError, match="--hub_model_id='a/b/c' is not accepted; use owner/name"):
        hub.require_token("hf_given", "a/b/c")
    with pytest.raises(
        UsageError, match="--push_to_hub needs a login: give --hub_token, set HF_TOKEN"
    ):
        hub.require_token(None, "me/model")


def test_what_is_sent_up_to_the_network(monkeypatch, tmp_path):
    """The library's own calls, recorded one step before they would open a connection."""
    from types import SimpleNamespace

    import huggingface_hub

    sent = []

    class Api:
        def __init__(self, token):
            sent.append(("token", token))

        def create_repo(self, repo_id, exist_ok):
            sent.append(("repo", repo_id, exist_ok))
            return SimpleNamespace(repo_id=f"me/{repo_id}")

        def upload_folder(self, repo_id, folder_path, commit_message):
            sent.append(("folder", repo_id, folder_path))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    hub.push(tmp_path, "model", "hf_secret")
    assert sent == [
        ("token", "hf_secret"),
        ("repo", "model", True),
        ("folder", "me/model", str(tmp_path)),
    ]


def test_offline_the_model_stays_and_the_token_is_not_told(tmp_path):
    with pytest.raises(
        TrainingError,
        match="--push_to_hub: 'me/m' could not be written.*upload it with: hf upload me/m",
    ) as error:
        hub.push(tmp_path, "me/m", "hf_secret")  # tests run with HF_HUB_OFFLINE=1
    assert "hf_secret" not in str(error.value)


def test_errors_of_whichever_http_library_the_client_uses_are_known():
    from huggingface_hub.errors import LocalEntryNotFoundError

    known = hub.connection_errors()
    for name in ("httpx", "httpx2"):
        if importlib.util.find_spec(name):
            library = importlib.import_module(name)
            assert issubclass(library.ConnectError, known)
            assert issubclass(library.ReadTimeout, known)
    assert issubclass(LocalEntryNotFoundError, (*known, OSError))
