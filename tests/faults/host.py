"""A process that has imported all a training needs, and begins one in a child whenever it is told to: so that a test
may end hundreds of them without waiting for imports. Orders and answers are JSON, a line each.

{"start": "train" | "train_detector" | "resume", "out": …, "root": …, "what": …, "at": …, "log": …, "said": …,
"options": {…}} → {"pid": …} {"wait": pid} → {"status": exit status, or minus the signal, "seen": calls that wrote}"""

import ctypes
import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import faster_coco_eval
import matplotlib.pyplot
import sklearn.datasets
import sklearn.model_selection

import wideresnet as wrn
from wideresnet import jobs, runtime
from wideresnet.data import arrays


def work(order: dict[str, Any]) -> int:
    shim = ctypes.CDLL(None)
    log = -1 if order["log"] is None else os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    job: dict[str, Callable[..., Any]] = {
        "train": lambda **options: wrn.train("digits", **options),
        "train_detector": wrn.train_detector,
        "resume": wrn.resume,
    }
    lines = list[str]()
    try:
        shim.shim_arm(order["root"].encode(), log, order["what"], ctypes.c_long(order["at"]))
        place = {"folder" if order["start"] == "resume" else "out": order["out"]}
        job[order["start"]](**place, watch=runtime.Watch(line=lines.append), **order["options"])
        code = 0
    except wrn.WideResNetError as error:
        lines.append(str(error))
        code = error.exit_code
    except KeyboardInterrupt:  # while no training goes on
        code = wrn.errors.INTERRUPTED
    except BaseException:
        lines.append(traceback.format_exc())
        code = 99
    seen = ctypes.c_long.in_dll(shim, "shim_seen_now").value
    shim.shim_arm(b"", -1, 0, ctypes.c_long(0))
    with open(order["said"], "w", encoding="utf-8") as file:  # noqa: PTH123 - of the shim's kind
        json.dump({"lines": lines, "seen": seen}, file)
    return code


def main() -> None:
    # What is imported late, as the first training would.
    _ = (matplotlib.pyplot, sklearn.datasets, sklearn.model_selection, jobs.demo, arrays.read_digits())
    _ = (faster_coco_eval, wrn.BoxPredictor)
    print("{}", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "start" in order:
            pid = os.fork()
            if pid == 0:
                os._exit(work(order))
            print(json.dumps({"pid": pid}), flush=True)
        else:
            status = os.waitpid(order["wait"], 0)[1]
            print(json.dumps({"status": os.waitstatus_to_exitcode(status)}), flush=True)


main()
