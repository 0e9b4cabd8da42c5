"""`python -m hive.cli`: the program `hive` with this interpreter."""

from hive.cli import main

main()
