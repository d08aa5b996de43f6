"""What a run of laws found, for people and for programs: one model, from which text and JSON are made.

``equiv.report.terminal``, which needs rich, is imported by itself.
"""

from equiv.report.asked import not_asked_lines as not_asked_lines
from equiv.report.formats import FORMATS, STDOUT, check_target, check_targets, write_json, write_run
from equiv.report.model import Environment, Item, Request, Row, Run, Tally
from equiv.report.plain import ratio_text, summary_lines, table_lines

__all__ = [
    "FORMATS",
    "STDOUT",
    "Environment",
    "Item",
    "Request",
    "Row",
    "Run",
    "Tally",
    "check_target",
    "check_targets",
    "ratio_text",
    "summary_lines",
    "table_lines",
    "write_json",
    "write_run",
]
