"""The command line: a file per verb. Errors are one line, exit codes mean something, and heavy imports wait until they are needed."""

from __future__ import annotations

import errno
import os
import shlex
import sys
import traceback
import warnings

import typer

from unflip.cli import adapt, audit, bench, compare, demo, evaluate, export, import_, methods, segmenter, serve, train, translate
from unflip.errors import Interrupted, SaidElsewhere, UserError
from unflip.heap import keep_freed_memory
from unflip.streams import outlive_the_terminal
from unflip.torchrun import processes

app = typer.Typer(
    name="unflip",
    help="Unpaired image-to-image translation that keeps semantics.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for verb in (
    demo.demo,
    audit.audit,
    train.train,
    translate.translate,
    segmenter.segmenter,
    evaluate.evaluate,
    compare.compare,
    adapt.adapt,
    bench.bench,
    export.export,
    serve.serve,
    methods.methods,
):
    app.command()(verb)
app.command("import")(import_.import_)


@app.callback(invoke_without_command=True)
def main(context: typer.Context, version: bool = typer.Option(False, "--version", help="Print the version and stop.")) -> None:
    """Unpaired image-to-image translation that keeps semantics."""
    if version:
        import unflip

        typer.echo(unflip.__version__)
        return
    if "UNFLIP_MAX_PIXELS" in os.environ:
        from unflip.data.limits import max_pixels

        max_pixels()  # says here what is wrong with it, and not of every image
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
    elif context.invoked_subcommand != "train" and processes() != (1, 1):
        raise UserError("only `unflip train` works with several processes; start this without torchrun")


def entry() -> int:
    """The command, as a process of its own.

    One of several that failed ends at once: what Python and its libraries do at exit waits for the GPUs of the others, and they for it.
    """
    outlive_the_terminal()
    if sys.argv[1:2] != ["serve"]:  # which lives long, and is mostly idle
        keep_freed_memory()
    try:
        code = run()
    except BaseException:
        if processes() == (1, 1):
            raise
        traceback.print_exc()
        code = 1
    if code and processes() != (1, 1):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def run(argv: list[str] | None = None) -> int:
    """Run the command line; the exit code.

    0 done; 1 done, but something that was asked for does not hold; 2 the call or its input is wrong; 130 or 143 interrupted.
    """
    argv = sys.argv[1:] if argv is None else argv
    warnings.filterwarnings("ignore", message="Image size .* exceeds limit")  # Pillow's: such an image is refused in one line
    try:
        code = app(argv, standalone_mode=False, obj=shlex.join(["unflip", *argv]))  # what a report says it was made by
        if code == 130:  # Typer's word for Ctrl-C
            print("interrupted", file=sys.stderr)
        return code if isinstance(code, int) else 0
    except SaidElsewhere as error:
        return error.exit_code
    except UserError as error:
        return _fail(str(error))
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        return stopped.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None:  # all other files tell their own errors
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # or Python would try again at its end
            return _fail("what was to be printed cannot be written: the disk is full", 1)
        code = getattr(error, "exit_code", None)  # what Typer raises for wrong options, and what a verb raises to end with a code
        if code is None:
            raise
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        return _fail(message, code) if message else code


def _fail(message: str, code: int = 2) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return code
