"""Tests of optional extras, skipped with the reason where one is not installed."""

import pytest

from regen.metrics.efficientnet import CLASS_PACKAGE, INSTALL, WEIGHTS_PACKAGE


def require_perceptual() -> None:
    """Skip the test without the packages of EfficientNet-Lite0."""
    for package in (CLASS_PACKAGE, WEIGHTS_PACKAGE):
        pytest.importorskip(package, reason=f"the extra `perceptual` is not installed: {INSTALL}")
