"""The hub: what its client raises, and uploads (--push_to_hub). The token goes from the flag to the
library alone."""

import functools
import importlib
import importlib.util
import os
from pathlib import Path

from utils.runtime.errors import TrainingError, UsageError


def connection_errors():
    """What the hub's client raises when the hub refuses or cannot be reached, besides OSError.
    Returns: tuple of classes."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    # the client has changed its library for HTTP more than once, and does not wrap that library's
    # errors
    found = (
        importlib.import_module(name)
        for name in ("httpx", "httpx2")
        if importlib.util.find_spec(name)
    )
    return (
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        *(library.HTTPError for library in found),
    )


@functools.cache
def offline_if_unreachable():
    """Ask the hub once, for at most 5 s; when it does not answer, its client reads what this
    machine already holds and asks no more (it would try five times a file)."""
    import urllib.error
    import urllib.request

    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return
    try:
        urllib.request.urlopen(
            urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=5
        ).close()
    except urllib.error.HTTPError:
        return  # an answer, if not a friendly one
    except OSError:
        os.environ["HF_HUB_OFFLINE"] = "1"  # for processes started later
        constants.HF_HUB_OFFLINE = True


def require_token(token, repo_id):
    """The token given, or the one this machine is logged in with; UsageError, before anything is
    trained, without either or when the hub could have no repository of that name."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        raise UsageError(
            f"--hub_model_id={repo_id!r} is not accepted; takes owner/name, of letters, digits,"
            " - _ ."
        ) from None
    found = token or get_token()
    if not found:
        raise UsageError(
            "--push_to_hub needs a login: give --hub_token, set HF_TOKEN, or run: hf auth login"
        )
    return found


def push(folder, repo_id, token):
    """Upload a pipeline folder to a repository that is made if it does not exist. Returns: its
    address.

    TrainingError when it cannot be done; the folder stays, and the message is how to upload it
    later."""
    from huggingface_hub import HfApi

    api, folder = HfApi(token=token), Path(folder)
    try:
        address = api.create_repo(repo_id, exist_ok=True)
        api.upload_folder(
            repo_id=address.repo_id,
            folder_path=str(folder),
            commit_message="Fine-tuned with diffrep",
        )
    except (*connection_errors(), OSError) as error:
        said = " ".join(str(error).replace(token, "redacted").split())[:160] or type(error).__name__
        raise TrainingError(
            f"--push_to_hub: {repo_id!r} could not be written ({said}); the model is in"
            f" {str(folder)!r}, upload it with: hf upload {repo_id} {folder}"
        ) from None
    return str(address)
