"""``unflip methods``"""

from __future__ import annotations

import textwrap
from typing import Annotated

import typer


def methods(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A method, for its terms, fields and defaults.")] = None,
) -> None:
    """List the methods, or one method's terms, fields, defaults and paper."""
    from unflip.config import unknown
    from unflip.errors import UserError
    from unflip.methods import METHODS

    if name is None:
        for method in METHODS.values():
            typer.echo(f"{method.name:12} {method.title:15} {method.summary}")
        return
    if name not in METHODS:
        raise UserError(unknown("method", name, METHODS))
    method = METHODS[name]
    typer.echo(f"{method.title}: {method.summary}\n{method.paper}")
    if method.notes:
        typer.echo(textwrap.fill(method.notes, 120))
    typer.echo(f"Budget: {method.epochs} epochs of the larger folder\n")
    typer.echo("Terms (change with --set TERM.FIELD=VALUE)")
    for term_name, term in method.recipe.terms.items():
        typer.echo(f"  {term_name}: {' '.join((type(term).__doc__ or '').split())}\n    {_fields(term.model_dump())}")
    typer.echo("\nNetworks and training (change with --set FIELD=VALUE)")
    for key, value in method.recipe.model_dump(exclude={"terms"}).items():
        typer.echo(f"  {key}: {_fields(value) if isinstance(value, dict) else value}")


def _fields(values: dict[str, object]) -> str:
    from unflip.runs import leaves

    return "  ".join(f"{key}={','.join(map(str, value)) if isinstance(value, tuple) else value}" for key, value in leaves(values).items())
