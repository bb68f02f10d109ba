"""The Hugging Face hub: errors of its client, working offline, and uploads (--push_to_hub).

A token goes from the flag to the client's library and nowhere else."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from pathlib import Path

from utils.runtime.errors import TrainingError, UsageError

REACH_SECONDS = 5  # timeout of the one request by which an unreachable hub is detected


def connection_errors() -> tuple[type[Exception], ...]:
    """The classes of error, besides OSError, that the hub's client raises when the hub refuses a
    request or cannot be reached."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    # the client has changed its HTTP library more than once, and lets that library's errors through
    libraries = (
        importlib.import_module(name)
        for name in ("httpx", "httpx2")
        if importlib.util.find_spec(name)
    )
    return (
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        *(library.HTTPError for library in libraries),
    )


@functools.cache
def offline_if_unreachable() -> None:
    """Switch the hub's client to its local cache if the hub does not answer within REACH_SECONDS.

    The hub is asked once a process. Otherwise the client would try five times for every file."""
    import urllib.error
    import urllib.request

    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return
    try:
        urllib.request.urlopen(
            urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=REACH_SECONDS
        ).close()
    except urllib.error.HTTPError:
        return  # a refusal is an answer too
    except OSError:
        os.environ["HF_HUB_OFFLINE"] = "1"  # for processes that are started later
        constants.HF_HUB_OFFLINE = True


def require_token(token: str | None, repo_id: str) -> str:
    """The given token, or the token of this machine's login.

    Called before training starts. UsageError if there is no token, or if `repo_id` is not a valid
    name of a repository."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        raise UsageError(
            f"--hub_model_id={repo_id!r} is not accepted; use owner/name, with letters, digits, -"
            " _ ."
        ) from None
    token = token or get_token()
    if not token:
        raise UsageError(
            "--push_to_hub needs a login: give --hub_token, set HF_TOKEN, or run: hf auth login"
        )
    return token


def push(folder: str | Path, repo_id: str, token: str) -> str:
    """Upload a pipeline folder to a repository, which is created if it does not exist.

    TrainingError, with the command that uploads the folder later, if the upload fails. Returns: the
    repository's address."""
    from huggingface_hub import HfApi

    api, folder = HfApi(token=token), Path(folder)
    refusals: tuple[type[Exception], ...] = (*connection_errors(), OSError)
    try:
        address = api.create_repo(repo_id, exist_ok=True)
        api.upload_folder(
            repo_id=address.repo_id,
            folder_path=str(folder),
            commit_message="Fine-tuned with diffrep",
        )
    except refusals as error:
        text = " ".join(str(error).replace(token, "redacted").split())[:160]
        reason = text or type(error).__name__
        raise TrainingError(
            f"--push_to_hub: {repo_id!r} could not be written ({reason}); the model is in"
            f" {str(folder)!r}, upload it with: hf upload {repo_id} {folder}"
        ) from None
    return str(address)
