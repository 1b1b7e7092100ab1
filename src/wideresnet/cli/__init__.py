"""The command `wrn`: words → a job → a table. One file a command group; no decision is taken here."""

import os
import sys

from cyclopts import App, CycloptsError, Parameter

from wideresnet.cli import datas, detecting, evaluating, explaining, importing, overviews, predicting, trainings, tuning
from wideresnet.cli.console import prepare_streams, say_error
from wideresnet.errors import INTERRUPTED, MISTAKE, STOPPED, WideResNetError, is_out_of_memory

app = App(
    name="wrn",
    help="Wide ResNets: from a folder of images to a model you can use. Start with `wrn demo`, then `wrn train DATA`.",
    help_epilogue="Exit codes: 0 done · 1 done, some inputs failed · 2 your mistake, nothing written · "
    "3 stopped whole, can go on · 130/143 stopped by signal, can go on.",
    version_flags=["--version"],
    help_format="plaintext",
    default_parameter=Parameter(consume_multiple=True),
    suppress_keyboard_interrupt=False,
)
app.command(trainings.demo)
app.command(trainings.train)
app.command(tuning.tune)
app.command(datas.data)
app.command(overviews.runs)
app.command(evaluating.evaluate)
app.command(predicting.predict)
app.command(explaining.explain)
app.command(detecting.app)
app.command(overviews.models)
app.command(importing.import_, name="import")
app.command(importing.convert)
app.command(overviews.info)


def run(tokens: list[str]) -> int:
    """One command; its exit code. No error of a user's making shows a traceback."""
    try:
        result = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except CycloptsError as error:
        say_error(f"{str(error).strip()} See `wrn --help`")
        return MISTAKE
    except WideResNetError as error:
        say_error(str(error), error)
        return error.exit_code
    except KeyboardInterrupt as error:
        say_error("stopped; nothing was half written. A run that had begun goes on with --resume RUN", error)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe has seen enough: `wrn predict … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (MemoryError, RuntimeError, OSError, ImportError, SystemError) as error:
        if is_out_of_memory(error):
            say_error(
                "out of memory; what was written before is whole. To train, give a smaller --batch-size or --size; "
                "to read pictures, --cache disk or off",
                error,
            )
        elif isinstance(error, RuntimeError | ImportError | SystemError):
            raise
        else:
            say_error(f"stopped: {str(error) or type(error).__name__}", error)
        return STOPPED


def main() -> None:
    prepare_streams()
    sys.exit(run(sys.argv[1:]))
