"""Train several runs one after the other in the same processes, which take seconds to start.

python tests/several_trainings.py COMMANDS: a JSON file, a list of the words of each command."""

import json
import sys
from pathlib import Path

import diff_train

if __name__ == "__main__":
    for words in json.loads(Path(sys.argv[1]).read_text()):
        diff_train.main(words)
