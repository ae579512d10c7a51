"""The pytest face: options, cases, fixtures, evidence, report and summary of an acceptance run."""
