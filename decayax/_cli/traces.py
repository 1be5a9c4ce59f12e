"""Which errors need a traceback, and which of its lines a user needs."""

import importlib
import os
import traceback
from pathlib import Path
from types import TracebackType


HERE = str(Path(__file__).parent) + os.sep
LIBRARY = str(Path(__file__).parents[1]) + os.sep


def users_traceback(error: BaseException) -> str:
    """The traceback without the frames of this command and of the import system."""
    frames: TracebackType | None = error.__traceback__
    while frames is not None and _is_ours(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames))


def is_from_the_library(error: BaseException) -> bool:
    """Whether decayax raised it because of an argument: its text says what to write."""
    frames = error.__traceback__
    while frames is not None and frames.tb_next is not None:
        frames = frames.tb_next
    file = frames.tb_frame.f_code.co_filename if frames is not None else ""
    return isinstance(error, TypeError | ValueError) and file.startswith(LIBRARY)


def _is_ours(file: str) -> bool:
    is_import = file.startswith("<frozen importlib") or file == importlib.__file__
    return is_import or file.startswith(HERE)
