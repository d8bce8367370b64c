"""Run files read: opened, walked, asked, compared, packed. What needs an execution is handed in."""
