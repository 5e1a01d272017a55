"""Calls between modules of the project, seen as they happen, in all threads."""

import inspect
import sys
import threading
from contextlib import contextmanager

from tests.house.layers import MODULES

BY_FILE = {str(path): module for module, path in MODULES.items()}


def module_of(frame):
    """The module of a frame; None for one outside the project."""
    return BY_FILE.get(frame.f_code.co_filename)


@contextmanager
def watched_calls(note):
    """Call `note(caller, called)` with the frames of each call of a function of the project.

    The caller is the innermost frame of the project, or None. A generator has no caller: whoever takes its
    next element need not know where it comes from.
    """

    def watch(frame, event, argument):
        if event != "call" or module_of(frame) is None:
            return
        caller = None if frame.f_code.co_flags & inspect.CO_GENERATOR else frame.f_back
        while caller is not None and module_of(caller) is None:
            caller = caller.f_back
        note(caller, frame)

    former, former_of_threads = sys.getprofile(), threading.getprofile()
    threading.setprofile(watch)
    sys.setprofile(watch)
    try:
        yield
    finally:
        sys.setprofile(former)
        threading.setprofile(former_of_threads)
