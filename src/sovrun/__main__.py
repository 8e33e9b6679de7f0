"""`python -m sovrun` is `sovrun`."""

from sovrun.cli.main import main

main()
