import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from tests import servers
from utils.retrieval.descriptors import weights
from utils.runtime.errors import DataError, UsageError

FIND = {
    "name": "w.pth",
    "address": "https://example.org/w.pth",
    "what": "X",
    "otherwise": "use --metrics fd",
}


def test_given_then_found_then_downloaded_then_an_error_that_helps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(weights.WeightsMissingError) as error:
        weights.find("--fid_weights", None, **FIND)
    for part in (
        "X needs pretrainedmodels/w.pth",
        "https://example.org/w.pth",
        "HF_HUB_OFFLINE",
        "--fid_weights",
        "--metrics fd",
    ):
        assert part in str(error.value)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    authors = tmp_path / "authors"
    authors.mkdir()
    (authors / "w.pth").write_bytes(b"weights")
    with servers.serving(authors, monkeypatch) as server:
        there = FIND | {"address": f"{server.address}/w.pth"}
        server.faults["/w.pth"] = [servers.status(503), servers.cut(3)]
        # one attempt each, and nothing that is cut is kept
        for why in ("answered 503", "IncompleteRead"):
            with pytest.raises(
                weights.WeightsMissingError, match=rf"w.pth could not be read \(.*{why}"
            ):
                weights.find("--fid_weights", None, **there)
        assert not list((tmp_path / "pretrainedmodels").iterdir())
        path = weights.find("--fid_weights", None, **there)
        assert (path.as_posix(), path.read_bytes()) == ("pretrainedmodels/w.pth", b"weights")
        weights.find("--fid_weights", None, **there)
        assert len(server.asked) == 3
    (tmp_path / "own.pth").write_bytes(b"mine")
    assert weights.find("--fid_weights", str(tmp_path / "own.pth"), **FIND).read_bytes() == b"mine"
    with pytest.raises(UsageError, match="--fid_weights='/no/such' does not exist"):
        weights.find("--fid_weights", "/no/such", **FIND)


def test_a_web_page_that_a_download_gave_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    (tmp_path / "authors").mkdir()
    (tmp_path / "authors" / "w.pth").write_bytes(b"\n<!DOCTYPE html><html>log in</html>")
    refused = pytest.raises(weights.WeightsMissingError, match="is a web page saved as weights")
    with servers.serving(tmp_path / "authors", monkeypatch) as server, refused:
        weights.find("--weights", None, **FIND | {"address": f"{server.address}/w.pth"})
    assert not list((tmp_path / "pretrainedmodels").iterdir())


def test_both_formats_and_a_checkpoint_that_wraps_its_tensors_are_read(tmp_path):
    state = {"a": torch.arange(3.0)}
    save_file(state, tmp_path / "w.safetensors")
    torch.save(state, tmp_path / "w.pt")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "wrapped.pt")
    for name in ("w.safetensors", "w.pt", "wrapped.pt"):
        assert torch.equal(weights.read(tmp_path / name)["a"], state["a"])


def test_nothing_is_unpickled(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    (tmp_path / "w.pt").write_bytes(pickle.dumps({"a": Evil()}))
    with pytest.raises(DataError, match="w.pt: is not a file of weights alone"):
        weights.read(tmp_path / "w.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is not a file of weights alone"),
        (b"<html>404</html>", "is a web page saved as weights"),
        (b"\x00" * 100, "is not a file of weights alone"),
    ],
)
def test_files_of_something_else_are_one_line(tmp_path, content, why):
    for name in ("w.pt", "w.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=why):
            weights.read(tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(DataError, match="it holds list, not tensors by name"):
        weights.read(tmp_path / "list.pt")


def test_tensors_are_fitted_by_name_or_by_order(tmp_path):
    model = torch.nn.Linear(2, 3)
    state = {"weight": torch.ones(3, 2), "bias": torch.zeros(3)}
    weights.load(model, dict(reversed(state.items())), "w.pt")  # names, whatever the order
    assert torch.equal(model.weight, torch.ones(3, 2))
    weights.load(model, {"x": torch.full((3, 2), 2.0), "y": torch.zeros(3)}, "w.pt")
    assert torch.equal(model.weight, torch.full((3, 2), 2.0))
    with pytest.raises(DataError, match="w.pt: has 1 tensors that do not fit the 2 of the model"):
        weights.load(model, {"weight": torch.ones(3, 2)}, "w.pt")


def test_the_hash_of_a_state_changes_with_any_number():
    model = torch.nn.Linear(2, 3)
    before = weights.state_sha256(model)
    assert before == weights.state_sha256(model)
    model.bias.data[2] += 1
    assert weights.state_sha256(model) != before


def test_weights_that_are_not_finite_are_refused_and_prefixes_taken_off(tmp_path):
    whole, broken = torch.ones(2), torch.tensor([1.0, float("nan")])
    torch.save({"module.a": whole, "module.b": whole}, tmp_path / "whole.pth")
    assert set(weights.read(tmp_path / "whole.pth")) == {"a", "b"}
    torch.save({"a": whole, "b": broken}, tmp_path / "broken.pth")
    with pytest.raises(DataError, match="1 of 2 tensors hold values that are not finite, the fir"):
        weights.read(tmp_path / "broken.pth")
