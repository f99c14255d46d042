"""Pages made from what runs left on disk: one self-contained HTML file each."""

from catchment.report import figures
from catchment.report.comparison_page import write_comparison
from catchment.report.page import format_number, format_percent, render, sentence
from catchment.report.run_page import NAME, write_run_report

__all__ = [
    "NAME",
    "figures",
    "format_number",
    "format_percent",
    "render",
    "sentence",
    "write_comparison",
    "write_run_report",
]
