"""The failing examples of a run as files: a Python program for each broken law that fails in the same way."""

from __future__ import annotations

import os
import re
from pathlib import Path

from equiv.errors import EquivError
from equiv.laws import Failure
from equiv.report.files import not_writable, write_text
from equiv.report.model import Run
from equiv.text import shown


def write_programs(run: Run, folder: str, *, option: str = "folder") -> list[str]:
    """Write the programs into a folder, which is made; their paths. Each begins with what is wrong.

    Raises:
        EquivError: The folder cannot be made, or written into.
    """
    if not isinstance(folder, str) or not folder:
        raise EquivError(f"{option}: expected the name of a folder, got {shown(folder)}; pass such as examples")
    written: dict[str, str] = {}
    for item in run.failures:
        failure = Failure.of(item.failure or {})
        if failure.snippet is not None:
            name = re.sub(r"[^\w.-]", "_", item.item, flags=re.ASCII)[:150]
            name = name if f"{name}.py" not in written else f"{name}-{len(written)}"
            said = f"{failure.summary}\n{failure.details(110, with_program=False)}".splitlines()
            head = "".join(f"# {line}".rstrip() + "\n" for line in said)
            written[f"{name}.py"] = f"{head}\n{failure.snippet.rstrip()}\n"
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise not_writable(option, folder, error) from error
    paths = {os.path.join(folder, name): text for name, text in written.items()}
    for path, text in paths.items():
        write_text(text, path, option=option)
    return list(paths)
