"""Commands that end before they train, each in a fork of one process that has loaded all they need.

python -m tests.forked reads a line of JSON, [module, *arguments], and answers with one: [status, out, err].
"""

import json
import os
import runpy
import sys
from tempfile import TemporaryFile

from experiments import compare, icons  # noqa: F401 (what every experiment loads)

for line in sys.stdin:
    sys.argv = [module, *_] = json.loads(line)
    with TemporaryFile() as out, TemporaryFile() as err:
        child = os.fork()
        if not child:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            break
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        told = [os.pread(file.fileno(), 2**20, 0).decode() for file in (out, err)]
    print(json.dumps([status, *told]), flush=True)
else:
    sys.exit()

runpy.run_module(module, run_name="__main__", alter_sys=True)
