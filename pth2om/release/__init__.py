"""Nights compared: baselines, regressions, history and waivers, all pure functions of evidence files."""
