"""The settings page says what the code says."""

from __future__ import annotations

from pathlib import Path

from resilience.reference import settings_page

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def test_the_settings_page_is_the_one_that_the_code_writes() -> None:
    assert PAGE.read_text("utf-8") == settings_page(), (
        "write it anew: python -m resilience.reference > docs/settings.md"
    )
