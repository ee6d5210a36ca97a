"""`python -m opensnac`: the command line."""

from opensnac.cli import main

main()
