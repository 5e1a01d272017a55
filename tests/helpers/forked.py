"""Commands, each in a fork of one process that has loaded what they load: that takes as long as they do.

python -m tests.helpers.forked reads lines of JSON, [module, arguments, environment, folder], and answers
each with the number of the process that runs it. In the folder, `out` and `err` take what the command
prints, and `status`, a named pipe, its exit status. All of them have this process's hash seed and what it
has imported.
"""

import json
import os
import runpy
import sys
from pathlib import Path

import pddm_jax.data.prepare.command  # noqa: F401
from experiments import compare, icons  # noqa: F401 (what every experiment loads)
from pddm_jax import embed  # noqa: F401

for line in sys.stdin:
    module, arguments, environment, folder = json.loads(line)
    if os.fork():
        continue
    command = os.fork()
    if not command:
        break
    # Open while the command runs, so that the end is seen however it comes.
    with Path(folder, "status").open("w", encoding="utf-8") as status:
        print(command, flush=True)
        status.write(str(os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])))
    os._exit(0)
else:
    sys.exit()

for number, name in enumerate((os.devnull, "out", "err")):
    os.dup2(os.open(Path(folder, name), os.O_RDWR | os.O_CREAT), number)
os.environ.clear()
os.environ.update(environment)
sys.argv = [module, *arguments]
sys.modules.pop(module, None)  # else Python warns that it is there before it is run
runpy.run_module(module, run_name="__main__", alter_sys=True)
