"""`python -m opensnac.cli`, as torchrun starts it."""

from opensnac.cli import main

main()
