"""The subcommands of `fcclip`, one module each.

A module has `add_parser(subparsers)`, which declares the arguments and sets `run` as the parsed arguments' `run`, and
`run(args) -> int`, which gives the exit code. What takes long to import is imported inside `run`.
"""
