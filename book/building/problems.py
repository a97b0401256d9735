"""What goes wrong while the book is built, told to a person."""

import click


class BookProblem(click.ClickException):
    """Something that stops the build; shown as one short message without a traceback, exit status 1."""
