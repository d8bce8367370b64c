"""The broker: stamps, journals, issues, dispatches and retires the tasks of every lane."""
