"""SQL text to rows: dialect, binder, planner, executor. Knows tables only through its ports."""
