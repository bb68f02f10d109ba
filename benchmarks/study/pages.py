"""docs/study.md and its figures, from rows alone."""


def write(docs, budget, rows):
    pass
