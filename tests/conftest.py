"""Rules for all tests: where what they need must be there, none of them may be skipped for want of it."""

import os

import pytest

# environment variable: what the reason of a skip says
MUST_BE_THERE = {"CATCHMENT_DATA": "CATCHMENT_DATA", "CATCHMENT_REQUIRE_COMPILER": "there is no C++ compiler"}


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    for variable, reason in MUST_BE_THERE.items():
        if report.skipped and os.environ.get(variable) and reason in str(report.longrepr):
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid} was skipped although {variable} is set: {report.longrepr[-1]}"
