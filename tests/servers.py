"""A server of files over https on this machine, as a context manager: parts of files, and faults
that are asked for."""

import contextlib
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import trustme


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_arguments):
        pass

    def do_GET(self):
        server, span = self.server, self.headers.get("Range")
        server.asked.append((self.path, span))
        faults = server.faults.get(self.path)
        if faults:
            faults.pop(0)(self)
            return
        path = server.root / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        content, stat = path.read_bytes(), path.stat()
        first, last = 0, len(content) - 1
        if span and server.gives_parts:
            first, last = (int(n) for n in span.removeprefix("bytes=").split("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("ETag", f'"{stat.st_size}-{stat.st_mtime_ns}"')
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # who asks may have seen enough
            self.wfile.write(content[first : last + 1])


def status(code):
    """A fault: an answer of that status."""
    return lambda handler: handler.send_error(code)


def _ending_after(count, header, value):
    """A fault: an answer of that header and `count` bytes, after which the connection is closed."""

    def answer(handler):
        handler.send_response(200)
        handler.send_header(header, value)
        handler.end_headers()
        handler.wfile.write(b"x" * count)
        handler.close_connection = True

    return answer


def cut(count):
    """A fault: an answer that ends after `count` bytes, though more are announced."""
    return _ending_after(count, "Content-Length", str(count + 1000))


def hung_up(count):
    """A fault: an answer of `count` bytes that announces no length, and whose end is that of the
    connection."""
    return _ending_after(count, "Connection", "close")


def moved(location):
    """A fault: an answer that sends elsewhere."""

    def answer(handler):
        handler.send_response(302)
        handler.send_header("Location", location)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


@contextlib.contextmanager
def serving(root, monkeypatch):
    """Serve the files below `root`. Yields: the server, whose `address` is https://localhost:PORT,
    `asked` the (path, Range) of every request, `faults` {path: [fault, ...]} to come before
    answers, `gives_parts` whether ranges are heeded."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    # of connections that are open at the end
    server.daemon_threads, server.handle_error = True, lambda *_: None
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.root, server.asked, server.faults, server.gives_parts = root, [], {}, True
    server.address = f"https://localhost:{server.server_address[1]}"
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    )
    thread.start()
    with authority.cert_pem.tempfile() as trusted:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", trusted)
        monkeypatch.setenv("NO_PROXY", "localhost")
        try:
            yield server
        finally:
            server.shutdown()
            server.server_close()
