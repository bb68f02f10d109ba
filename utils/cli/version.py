"""The toolkit's name, version and commit, as --version prints them."""

import tomllib

from utils.runtime import environment


def describe() -> str:
    """The line of --version: "diffrep 0.2.0 (commit <40 digits>)", with a + when a file changed.

    The version is that of pyproject.toml; outside a git checkout the commit is "unknown"."""
    text = (environment.TOOLKIT / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    commit = environment.environment()["commit"] or "unknown"
    return f"{project['name']} {project['version']} (commit {commit})"
