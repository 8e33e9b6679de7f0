"""Strategies for the values that are recorded; cheap to draw, so that thousands of examples are."""

from __future__ import annotations

from hypothesis import strategies as st

from sovrun.core.ids import Digest

digests = st.integers(0, 2**32 - 1).map(lambda number: Digest(f"{number:032x}" * 2))
names = st.text("abcXYZ_-09", max_size=8).map(lambda text: "n" + text)
codes = st.sampled_from(["step_raised", "bad_output", "wall_time_exceeded", "x"])
workers = st.text("abc.:-09", min_size=1, max_size=8).map(lambda text: f"{text}/{len(text)}")
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
