"""What a run of laws found, for people and for programs: one model of it, from which text, JSON and HTML are made.

``equiv.report.terminal``, which needs rich, is imported by itself.
"""

from equiv.environment import Environment
from equiv.report.annotations import annotations_of
from equiv.report.annotations import error_line as error_line
from equiv.report.asked import not_asked_lines as not_asked_lines
from equiv.report.files import STDOUT, check_target
from equiv.report.files import is_stdout as is_stdout
from equiv.report.files import write_bytes as write_bytes
from equiv.report.files import write_text as write_text
from equiv.report.formats import FORMATS, check_targets, schema, write_json, write_run
from equiv.report.formats import html_of as html_of
from equiv.report.formats import json_of as json_of
from equiv.report.journal import Journal as Journal
from equiv.report.model import OUTCOMES, Item, NotAsked, Request, Row, Run, Tally
from equiv.report.plain import defect_lines as defect_lines
from equiv.report.plain import ratio_text, summary_lines, table_lines
from equiv.report.plain import summary_text as summary_text
from equiv.report.programs import write_programs as write_programs
from equiv.report.reading import read_run

__all__ = [
    "FORMATS",
    "OUTCOMES",
    "STDOUT",
    "Environment",
    "Item",
    "NotAsked",
    "Request",
    "Row",
    "Run",
    "Tally",
    "annotations_of",
    "check_target",
    "check_targets",
    "ratio_text",
    "read_run",
    "schema",
    "summary_lines",
    "table_lines",
    "write_json",
    "write_run",
]
