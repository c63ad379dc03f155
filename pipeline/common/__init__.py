"""Common ground of the experiment: files, seeds, jobs and kept work. Knows no task and depends on libraries only."""
