"""``python -m hakuriver`` is ``hakuriver``."""

from hakuriver.cli.main import run

if __name__ == "__main__":
    run()
