"""``python -m halobench.models [name ...]``: the cost table of all models, or of those named, as Markdown."""

import sys

from halobench.models.costs import table

if __name__ == "__main__":
    for line in table(sys.argv[1:] or None):
        print(line, flush=True)
