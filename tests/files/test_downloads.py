import pytest

from tests import servers
from utils.files import downloads
from utils.runtime.errors import DataError


@pytest.fixture
def server(tmp_path, monkeypatch):
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "a.tar").write_bytes(bytes(range(256)) * 9000)
    with servers.serving(tmp_path / "served", monkeypatch) as found:
        yield found


def test_a_file_comes_whole_and_a_part_is_that_part(server, tmp_path):
    address = downloads.Address(server.address) / "a.tar"
    downloads.fetch(address, tmp_path / "a.tar")
    whole = (server.root / "a.tar").read_bytes()
    assert (tmp_path / "a.tar").read_bytes() == whole
    assert downloads.read_part(address, 700, 300) == (
        whole[700:1000],
        downloads.change_stamp(address),
    )
    assert server.asked == [("/a.tar", None), ("/a.tar", "bytes=700-999"), ("/a.tar", "bytes=0-0")]


def test_the_state_changes_with_the_file_and_costs_one_byte(server):
    address = f"{server.address}/a.tar"
    before = downloads.change_stamp(address)
    assert before["bytes"] == 256 * 9000
    assert downloads.change_stamp(address) == before
    (server.root / "a.tar").write_bytes(b"y" * 256 * 9000)
    after = downloads.change_stamp(address)
    assert (after["bytes"], after["etag"] == before["etag"]) == (256 * 9000, False)
    assert {span for _path, span in server.asked} == {"bytes=0-0"}


def test_a_server_without_parts_still_tells_the_state(server):
    server.gives_parts = False
    assert downloads.change_stamp(f"{server.address}/a.tar")["bytes"] == 256 * 9000
    with pytest.raises(
        DataError, match=r"a.tar: its server does not support reading a part of a file"
    ):
        downloads.read_part(f"{server.address}/a.tar", 0, 10)


@pytest.mark.parametrize("fault", [servers.status(503), servers.status(429), servers.cut(5000)])
def test_what_may_pass_is_tried_again(server, tmp_path, fault):
    server.faults["/a.tar"] = [fault, fault]
    downloads.fetch(f"{server.address}/a.tar", tmp_path / "a.tar", waits=(0, 0))
    assert (tmp_path / "a.tar").read_bytes() == (server.root / "a.tar").read_bytes()
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("fault", "asked", "said"),
    [
        (servers.status(503), 3, "answered 503"),
        (servers.status(404), 1, "answered 404"),
        (servers.status(403), 1, "answered 403"),
        (servers.cut(5000), 3, "cannot be read .*IncompleteRead"),
        (servers.hung_up(5000), 3, r"cannot be read \(received 5000 of 2304000 bytes\)"),
    ],
)
def test_what_does_not_pass_is_one_line(server, tmp_path, fault, asked, said):
    server.faults["/a.tar"] = [fault] * 9
    with pytest.raises(DataError, match=f"^https://localhost:.*/a.tar: {said}") as raised:
        downloads.fetch(
            f"{server.address}/a.tar", tmp_path / "a.tar", waits=(0, 0), size=256 * 9000
        )
    assert "\n" not in str(raised.value)
    assert len(server.asked) == asked


def test_no_redirect_leaves_https(server, tmp_path):
    (server.root / "b.tar").write_bytes(b"there")
    server.faults["/a.tar"] = [
        servers.moved(f"{server.address}/b.tar"),
        servers.moved("http://localhost:1/b.tar"),
    ]
    downloads.fetch(f"{server.address}/a.tar", tmp_path / "a.tar")
    assert (tmp_path / "a.tar").read_bytes() == b"there"
    with pytest.raises(DataError, match="cannot be read .it leads to an address that is not https"):
        downloads.fetch(f"{server.address}/a.tar", tmp_path / "a.tar", waits=(0, 0))


def test_a_certificate_that_nobody_vouches_for_is_refused_at_once(server, tmp_path, monkeypatch):
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with pytest.raises(DataError, match="(?i)certificate"):
        downloads.fetch(f"{server.address}/a.tar", tmp_path / "a.tar", waits=(600,))


def test_a_host_that_does_not_answer_is_one_line_and_is_left_alone_for_a_minute(
    tmp_path, monkeypatch
):
    waited = []
    monkeypatch.setattr(downloads.time, "sleep", waited.append)
    downloads._host.cache_clear()
    with pytest.raises(
        DataError,
        match=r"^https://localhost:1/a.tar: cannot be read \(Failed to establish a new connection",
    ):
        downloads.fetch("https://localhost:1/a.tar", tmp_path / "a.tar", waits=(7,))
    assert waited == [7]
    with pytest.raises(
        DataError, match="^https://localhost:1/b.tar: its host could not be reached a moment ago"
    ):
        downloads.change_stamp("https://localhost:1/b.tar")
    now = downloads.time.monotonic()
    monkeypatch.setattr(downloads.time, "monotonic", lambda: now + 61)
    with pytest.raises(DataError, match="^https://localhost:1/b.tar: cannot be read"):
        downloads.change_stamp("https://localhost:1/b.tar")
    assert waited == [7, 1, 4]


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".example", "[abc", "[::1", "exa mple"])
def test_a_host_that_can_be_none_is_one_line(host):
    with pytest.raises(DataError, match="^https://"):
        downloads.change_stamp(f"https://{host}/0.tar")


def test_one_line_that_broke_does_not_silence_a_host_that_answers_others(server, tmp_path):
    """Of sixteen that ask at once one may have bad luck."""

    def drop(handler):
        downloads.change_stamp(f"{server.address}/b.tar")  # another's answer comes meanwhile
        handler.close_connection = True  # without a word

    (server.root / "b.tar").write_bytes(b"there")
    server.faults["/a.tar"] = [drop]
    with pytest.raises(DataError, match="a.tar: cannot be read"):
        downloads.fetch(f"{server.address}/a.tar", tmp_path / "a.tar", waits=())
    assert downloads.change_stamp(f"{server.address}/b.tar")["bytes"] == 5


def test_many_states_come_in_order_with_their_errors(server):
    found = downloads.change_stamps(f"{server.address}/{name}.tar" for name in "axa")
    assert [state["bytes"] for state in found[::2]] == [256 * 9000] * 2
    assert isinstance(found[1], downloads.GoneError)


def test_connections_are_used_again(server, monkeypatch):
    made = []
    real = server.process_request
    monkeypatch.setattr(server, "process_request", lambda *a: made.append(1) or real(*a))
    for first in range(5):
        downloads.change_stamp(f"{server.address}/a.tar")
        downloads.read_part(f"{server.address}/a.tar", first, 10)
    assert len(made) == 1
