"""Run files read: opened, walked, asked, compared, packed. Nothing here executes a task anew."""
