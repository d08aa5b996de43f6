"""What a run of laws found, for people and for programs: one model, from which text and JSON are made.

``equiv.report.terminal``, which needs rich, is imported by itself.
"""

from equiv.report.json import STDOUT, check_target, write_json
from equiv.report.model import Environment, Item, Request, Row, Run, Tally
from equiv.report.plain import ratio_text, summary_lines, table_lines

__all__ = [
    "STDOUT",
    "Environment",
    "Item",
    "Request",
    "Row",
    "Run",
    "Tally",
    "check_target",
    "ratio_text",
    "summary_lines",
    "table_lines",
    "write_json",
]
