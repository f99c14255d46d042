"""Rules for all tests: with real data at hand, none of the tests that need it may be skipped."""

import os

import pytest


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("CATCHMENT_DATA") and "CATCHMENT_DATA" in str(report.longrepr):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped although CATCHMENT_DATA is set: {report.longrepr[-1]}"
