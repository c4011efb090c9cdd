"""`python -m dockyard.cli`: the same as the console script."""

from dockyard.cli import main

main()
